"""Opens connections: looks a host up, tries its addresses, speaks TLS where it is asked for.

In: an `Origin`. Out: a `Connection`, or an `httpx.TransportError`. Addresses of both families are tried in turn, a quarter of a
second apart (RFC 8305, `aiohappyeyeballs`). Lookups are cached for ten seconds and rotated.

With `check` it is the second half of the guard on http tasks, after `rules/targets.py`: no lookup is cached, every address a name
resolves to must pass, and the very address a socket is made for is checked once more. TLS and the Host header keep the name.
With `check_origin` the host is judged here too: for agents, whose cards may lead to other hosts than their endpoint's.
It reads no proxy settings.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from typing import Any, NamedTuple

import aiohappyeyeballs
import httpx

from agents_io.http.connection import Connection
from agents_io.lookup import Lookup, system_lookup

CACHE_TTL_S = 10.0
MAX_CACHED_HOSTS = 1000
FALLBACK_DELAY_S = 0.25

Check = Callable[[str], None]
"""Raises `ForbiddenTarget` for an address that may not be connected to."""


class Origin(NamedTuple):
    """What a connection leads to. `context`: None without TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None


@cache
def default_context() -> ssl.SSLContext:
    """Trusts the system's authorities and offers HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connector:
    """`lookup`: replaces the system's, for tests. `check`: the guard on addresses; `check_origin`: on hosts."""

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        check: Check | None = None,
        check_origin: Callable[[Origin], None] | None = None,
    ) -> None:
        self._lookup = lookup
        self._check = check
        self._check_origin = check_origin
        self._cache: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[list[str]]] = {}

    async def connect(self, origin: Origin, on_lost: Callable[[Connection], None]) -> Connection:
        """A new connection. Raises `httpx.TransportError`, `ForbiddenTarget`."""
        host = origin.host.rstrip(".") + "." if origin.host.endswith("..") else origin.host
        if self._check_origin is not None:
            self._check_origin(origin)
        try:
            addresses = await self._addresses(host, origin.port)
            return await self._first_of(addresses, origin, host.rstrip("."), on_lost)
        except ssl.CertificateError as error:
            reason = getattr(error, "verify_message", "") or str(error)
            raise httpx.ConnectError(f"the agent's certificate is refused: {reason}") from error
        except OSError as error:
            reason = str(error) or type(error).__name__
            raise httpx.ConnectError(f"cannot connect to {origin.host}:{origin.port}: {reason}") from error
        except ValueError as error:  # a host that IDNA or the resolver rejects
            raise httpx.LocalProtocolError(str(error) or type(error).__name__) from error

    async def _first_of(
        self, addresses: list[str], origin: Origin, name: str, on_lost: Callable[[Connection], None]
    ) -> Connection:
        """A connection to the first address that accepts one, TLS included."""
        loop = asyncio.get_running_loop()
        rows = [_row(address, origin.port) for address in addresses]
        failure: OSError = OSError(f"{origin.host} has no address")
        while rows:
            begun = time.monotonic()
            sock = await aiohappyeyeballs.start_connection(
                rows, happy_eyeballs_delay=FALLBACK_DELAY_S, interleave=1, loop=loop, socket_factory=self._socket
            )
            round_trip_s = min(time.monotonic() - begun, FALLBACK_DELAY_S)
            peer = ""
            try:
                peer = _peer(sock)
                _, connection = await loop.create_connection(
                    lambda: Connection(on_lost),
                    sock=sock,
                    ssl=origin.context,
                    server_hostname=name if origin.context is not None else None,
                )
                connection.round_trip_s = round_trip_s
                return connection
            except OSError as error:
                # TLS failed at this address; another one may lead to another server.
                failure = error
                rest = [row for row in rows if row[4][0].partition("%")[0] != peer.partition("%")[0]]
                rows = rest if len(rest) < len(rows) else []
        raise failure

    def _socket(self, row: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = row
        if self._check is not None:
            self._check(address[0])
        return socket.socket(family, kind, protocol)

    async def _addresses(self, host: str, port: int) -> list[str]:
        if _is_literal(host):
            found = [host]
        elif self._check is not None:
            found = await self._lookup(host, port)
        else:
            found = await self._cached_lookup(host, port)
        if not found:
            raise OSError(f"{host} has no address")
        if self._check is not None:
            for address in found:
                self._check(address)
        return found

    async def _cached_lookup(self, host: str, port: int) -> list[str]:
        cached = self._cache.get(host)
        if cached is None or time.monotonic() - cached[0] > CACHE_TTL_S:
            task = self._under_way.get(host)
            if task is None:
                task = self._under_way[host] = asyncio.ensure_future(self._look_up(host, port))
                task.add_done_callback(_retrieve)
            try:
                # A caller that gives up must not cancel the lookup for the others.
                cached = (0.0, await asyncio.shield(task))
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if task.cancelled() and caller is not None and not caller.cancelling():
                    raise OSError("the lookup was stopped: the pool is closing") from None
                raise
        addresses = cached[1]
        found = list(addresses)
        if addresses:
            addresses.append(addresses.pop(0))
        return found

    async def _look_up(self, host: str, port: int) -> list[str]:
        try:
            found = list(await self._lookup(host, port))
        finally:
            self._under_way.pop(host, None)
        self._cache[host] = (time.monotonic(), found)
        self._cache.move_to_end(host)
        if len(self._cache) > MAX_CACHED_HOSTS:
            self._cache.popitem(last=False)
        return found

    async def aclose(self) -> None:
        """Stop lookups under way."""
        for task in list(self._under_way.values()):
            task.cancel()


def _peer(sock: socket.socket) -> str:
    try:
        return str(sock.getpeername()[0])
    except OSError:
        sock.close()  # it was reset meanwhile
        raise


def _retrieve(task: asyncio.Task[list[str]]) -> None:
    """Mark a failure as retrieved: all callers may have given up by now."""
    if not task.cancelled():
        task.exception()


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _row(address: str, port: int) -> tuple[Any, ...]:
    """An address in the form of `getaddrinfo`."""
    if ":" not in address:
        return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
    host, _, zone = address.partition("%")
    scope = socket.if_nametoindex(zone) if zone and not zone.isdigit() else int(zone or 0)
    return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, scope))
