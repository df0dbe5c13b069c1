"""A transport without a socket, for tests of `agents_io/http/connection.py`: it keeps what is written, and the test feeds it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import httpx

from agents_io.http.connection import Connection


class FakeSocket(asyncio.Transport):
    """One end of a connection. `unsent`: bytes of the request that the server has not read yet."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.is_paused = False
        self.was_aborted = False
        self.connection = Connection()
        self.connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        """What the test says."""
        return self.unsent

    def is_closing(self) -> bool:
        """After `abort`."""
        return self.was_aborted

    def abort(self) -> None:
        """As a real one, it ends in a later turn of the loop."""
        if not self.was_aborted:
            self.was_aborted = True
            asyncio.get_running_loop().call_soon(self.lose)

    def pause_reading(self) -> None:
        """Remember it."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Remember it."""
        self.is_paused = False

    def feed(self, *pieces: bytes) -> None:
        """Bytes from the server, as far as the connection is still open."""
        for piece in pieces:
            if not self.was_aborted and not self.connection.is_lost:
                self.connection.data_received(piece)

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone."""
        if not self.connection.is_lost:
            self.was_aborted = True
            self.connection.connection_lost(error)


async def whole(pieces: Iterable[bytes], *, closes: bool = False, cap: int = 1_000_000) -> tuple[int, bytes] | str:
    """Status and body of the response in these pieces, or the name of the error. `closes`: then the server closes."""
    socket = FakeSocket()
    socket.connection.send(b"POST / HTTP/1.1\r\n\r\n")
    reading = asyncio.ensure_future(socket.connection.read_all(cap, cap))
    await asyncio.sleep(0)
    socket.feed(*pieces)
    return await outcome(socket, reading, closes)


async def outcome(socket: FakeSocket, reading: asyncio.Future[bytes], closes: bool) -> tuple[int, bytes] | str:
    """Status and body that `reading` ends with, or the name of the error. `closes`: the server closes first."""
    if closes:
        socket.connection.eof_received()
        socket.lose()
    try:
        body = await asyncio.wait_for(reading, 1)
    except httpx.TransportError as error:
        return type(error).__name__
    return socket.connection.status, body
