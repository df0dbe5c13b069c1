"""The addresses of a host, by the system's resolver.

In: host and port. Out: addresses as text, those of a link with their zone; or OSError. It caches nothing.

The resolver blocks, for ten seconds and more if a name server does not answer. It runs in threads of its own: uvloop
makes two lookups at once, and hosts that cannot be looked up would hold up those of all others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from agents_io.daemon_threads import DaemonThreads

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as text. Raises OSError."""

MAX_AT_ONCE = 256
_threads = DaemonThreads(MAX_AT_ONCE, "parallax-lookup")


async def system_lookup(host: str, port: int) -> list[str]:
    """The system's resolver, in a thread. Raises OSError, ValueError."""
    return await asyncio.wrap_future(_threads.submit(lambda: _addresses(host, port)))


def _addresses(host: str, port: int) -> list[str]:
    found = []
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    for family, _, _, _, address in rows:
        if family == socket.AF_INET6 and len(address) > 3 and address[3]:
            # A link-local address means nothing without its zone.
            found.append(socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0])
        elif family in (socket.AF_INET, socket.AF_INET6):
            found.append(str(address[0]))
    return found
