"""The addresses of a host, by the system's resolver.

In: host and port. Out: addresses as text, those of a link with their zone; or OSError. It caches nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as text. Raises OSError."""


async def system_lookup(host: str, port: int) -> list[str]:
    """The system's resolver, in a thread. Raises OSError."""
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    found = []
    for family, _, _, _, address in rows:
        if family == socket.AF_INET6 and len(address) > 3 and address[3]:
            # A link-local address means nothing without its zone.
            numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            found.append((await loop.getnameinfo(address, numeric))[0])
        elif family in (socket.AF_INET, socket.AF_INET6):
            found.append(str(address[0]))
    return found
