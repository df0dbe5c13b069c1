"""A pool of connections to agents, bounded in use; idle ones are kept for a short while.

In: an `Origin`. Out: a `Connection` that is free for one request. The newest idle connection is taken first; idle ones
close after `KEEPALIVE_S`. Callers above the limit wait in order. It parses nothing and retries nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import httpx

from agents_io.http.connecting import Connector, Origin
from agents_io.http.connection import Connection

KEEPALIVE_S = 4.0
"""Servers close idle connections, often after 5 s. A POST on a connection that is being closed is lost, so close it
earlier.
"""
_CLOSING_S = 1.0


class ConnectionPool:
    """`connector`: opens the connections. `max_connections`: how many may be in use at once."""

    def __init__(self, connector: Connector, max_connections: int = 1000) -> None:
        self._connector = connector
        self._max_connections = max_connections
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._all_lost: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def in_use(self) -> int:
        """Connections with a request under way, and those being opened."""
        return self._in_use

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return sum(not connection.is_lost for idle in self._idle.values() for connection in idle)

    def take_idle(self, origin: Origin) -> Connection | None:
        """An open idle connection, if there is one and the limit allows it; does not wait."""
        if self._in_use >= self._max_connections or self._is_closed:
            return None
        connection = self._pop(origin)
        if connection is not None:
            self._in_use += 1
        return connection

    async def acquire(self, origin: Origin, fresh: bool = False) -> Connection:
        """A connection, idle or new. `fresh`: a new one. Raises `httpx.TransportError`, `ForbiddenTarget`."""
        self._refuse_if_closed()
        if self._in_use >= self._max_connections:
            await self._wait_for_slot()
        else:
            self._in_use += 1
        connection = None if fresh else self._pop(origin)
        if connection is not None:
            return connection
        try:
            connection = await self._connector.connect(origin, self._on_lost)
        except BaseException:
            self._free_slot()
            raise
        if not connection.is_lost:
            self._open.add(connection)
        if self._is_closed:
            connection.abort()
            self._free_slot()
            self._refuse_if_closed()
        return connection

    def release(self, origin: Origin, connection: Connection) -> None:
        """The response is over or was given up: keep the connection if it is reusable, else close it."""
        connection.is_busy = False
        if connection.is_reusable and not self._is_closed:
            connection.idle_since = time.monotonic()
            idle = self._idle.get(origin)
            if idle is None:
                self._idle[origin] = [connection]
            else:
                idle.append(connection)
            if self._sweep is None:
                self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_S / 2, self._close_expired)
        else:
            connection.abort()
        self._free_slot()

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        await self._connector.aclose()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(httpx.LocalProtocolError("the connection pool is closed"))
        self._waiters.clear()
        for connection in self._open:
            connection.abort()
        if self._open:
            # The transports close in later turns of the loop.
            self._all_lost = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_lost], timeout=_CLOSING_S)

    def _pop(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_reusable and time.monotonic() - connection.idle_since < KEEPALIVE_S:
                return connection
            connection.abort()
        return None

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise httpx.LocalProtocolError("the connection pool is closed")

    async def _wait_for_slot(self) -> None:
        """Wait for a slot to be handed over; it stays counted as in use."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._free_slot()  # handed over in the same turn
            raise

    def _free_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._in_use -= 1

    def _on_lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._all_lost is not None and not self._open and not self._all_lost.done():
            self._all_lost.set_result(None)

    def _close_expired(self) -> None:
        """Close connections that were idle too long and forget those the server closed; repeats while any is left."""
        self._sweep = None
        now = time.monotonic()
        for origin, idle in list(self._idle.items()):
            kept = []
            for connection in idle:
                if connection.is_reusable and now - connection.idle_since < KEEPALIVE_S:
                    kept.append(connection)
                else:
                    connection.abort()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_S / 2, self._close_expired)
