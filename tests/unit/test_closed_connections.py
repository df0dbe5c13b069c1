"""A broker that is killed resets its connections: requests that are sent at that moment fail as any others do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from streams.broker.closed_connections import fail_on_closed

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""
WAIT_S = 10.0


class Broker:
    """Answers what versions it has, which is all a connection asks for, and is killed."""

    def __init__(self) -> None:
        self.open: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open.append(writer)
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        request = await reader.readexactly(size)
        answer = request[4:8] + struct.pack(">hi", 0, 1) + struct.pack(">hhh", ApiVersionRequest.API_KEY, 0, 0)
        writer.write(struct.pack(">i", len(answer)) + answer)

    def kill(self) -> None:
        """Reset all connections."""
        for writer in self.open:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


async def send_until_it_fails() -> BaseException:
    """A request in each turn of the loop, until one cannot be sent; why."""
    broker = Broker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    connection = await create_conn("127.0.0.1", server.sockets[0].getsockname()[1])
    sent: list[asyncio.Future[Any]] = []
    try:
        broker.kill()
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    sent.append(asyncio.ensure_future(connection.send(ApiVersionRequest())))
                except Exception as error:
                    return error
                await asyncio.sleep(0)
    finally:
        connection.close()
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {KafkaConnectionError}
        server.close()


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_a_request_on_a_connection_that_was_just_reset_fails_as_such(
    run: Callable[[Coroutine[Any, Any, BaseException]], BaseException],
) -> None:
    """uvloop raises RuntimeError there, which ended aiokafka's task that updates the metadata: the client never recovered."""
    fail_on_closed()
    assert type(run(send_until_it_fails())) is KafkaConnectionError
