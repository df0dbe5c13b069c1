"""A connection pool that connects only to addresses an allow-list permits: the second half of the guard on http tasks.

In: host names that the first half (`rules/targets.py`) let pass. Out: connections to addresses that were checked, one lookup
each: every address a name resolves to must be permitted, and the very address a socket is made for is looked at once more.
TLS and the Host header keep the name. It keeps no DNS cache, reads no proxy settings and never looks a name up twice for a call.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agents_io.errors import ForbiddenTarget
from agents_io.http.aiohttp_seam import KEEPALIVE_S
from agents_io.rules.targets import AllowList


class GuardedResolver(AbstractResolver):
    """Looks names up and refuses those of which any address is not permitted. `inner`: who really looks them up."""

    def __init__(self, allowed: AllowList, inner: AbstractResolver) -> None:
        self._allowed = allowed
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises `ForbiddenTarget`, OSError."""
        found = await self._inner.resolve(host, port, family)
        if not found:
            raise OSError(f"{host} has no address")
        for row in found:
            _check(self._allowed, row["host"])
        return found

    async def close(self) -> None:
        """Release what the lookup holds."""
        await self._inner.close()


def _check(allowed: AllowList, text: str) -> None:
    try:
        address = ip_address(text)
    except ValueError:
        raise ForbiddenTarget("target: leads to an address in a form that is not accepted") from None
    if not allowed.permits(address):
        raise ForbiddenTarget(f"target: {allowed.refusal(address)}")


def guarded_connector(
    allowed: AllowList, max_connections: int, resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver
) -> aiohttp.TCPConnector:
    """A connector to be made inside the running loop. `resolver`: in place of the system's, for tests."""

    def checked_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, place = info
        _check(allowed, place[0])
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        limit=max_connections,
        keepalive_timeout=KEEPALIVE_S,
        use_dns_cache=False,
        resolver=GuardedResolver(allowed, resolver()),
        socket_factory=checked_socket,
    )
