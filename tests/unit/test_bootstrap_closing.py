"""A client that is cancelled while it asks its first broker leaves no connection behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

from streams.broker.kafka import client_options, committed_reader, start
from streams.settings import Settings

VERSIONS = b"\0\0" + b"\0\0\0\x02" + b"\0\x03\0\0\0\x09" + b"\0\x12\0\0\0\x03"
"""No error; two kinds of requests: Metadata 0 to 9, ApiVersions 0 to 3."""


@pytest.mark.parametrize("end", ["cancelled", "hung up"])
async def test_a_cut_bootstrap_closes_its_connection(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker tells its versions and then nothing more: aiokafka alone would keep the connection."""
    made: list[AIOKafkaConnection] = []
    usual = AIOKafkaConnection.__init__

    def keep(self: AIOKafkaConnection, *args: object, **options: object) -> None:
        usual(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(AIOKafkaConnection, "__init__", keep)
    asked = asyncio.Event()
    writers = []

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        size = int.from_bytes(await reader.readexactly(4))
        request = await reader.readexactly(size)
        answer = request[4:8] + VERSIONS
        writer.write(len(answer).to_bytes(4) + answer)
        await reader.readexactly(4)
        asked.set()
        if end == "hung up":
            writer.close()

    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        options = client_options(Settings(bootstrap_servers=f"127.0.0.1:{port}"))
        starting = asyncio.create_task(start(committed_reader(options)))
        await asyncio.wait_for(asked.wait(), 10)
        if end == "cancelled":
            starting.cancel()
        with suppress(asyncio.CancelledError, KafkaConnectionError):
            await asyncio.wait_for(starting, 10)
        assert len(made) == 1
        assert not made[0].connected()
        for writer in writers:
            writer.close()
