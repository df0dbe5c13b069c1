"""A connection whose other end may disappear as a machine does that loses its power: nothing is closed, nothing answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Link:
    """Bytes to an address and back, until it is `dead`: then nothing comes through, and nothing is closed."""

    def __init__(self, address: str) -> None:
        self.host, _, self.port = address.rpartition(":")
        self.dead = False
        self.pumps: set[asyncio.Task[None]] = set()
        self.ends: list[asyncio.StreamWriter] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        inner_reader, inner = await asyncio.open_connection(self.host, int(self.port))
        self.ends += [writer, inner]
        for ends in ((reader, inner), (inner_reader, writer)):
            self.pumps.add(asyncio.create_task(self.pump(*ends)))

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction."""
        while piece := await reader.read(65_536):
            if not self.dead:
                writer.write(piece)


@asynccontextmanager
async def linked(address: str) -> AsyncIterator[tuple[Link, str]]:
    """A link before the address, and its own."""
    link = Link(address)
    server = await asyncio.start_server(link.carry, "127.0.0.1", 0)
    try:
        yield link, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for pump in link.pumps:
            pump.cancel()
        await asyncio.gather(*link.pumps, return_exceptions=True)
        for end in link.ends:
            end.transport.abort()
        await asyncio.sleep(0)
