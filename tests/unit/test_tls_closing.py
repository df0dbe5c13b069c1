"""A TLS connection that was closed ends soon, whatever the broker does."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol

from streams.broker.tls_closing import cut_slow_ends

TLS = Path(__file__).parents[1] / "support" / "tls"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a TLS server that says no farewell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with context.wrap_socket(peer, server_side=True, suppress_ragged_eofs=True):
                done.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        done.set()
        thread.join(10)


async def test_a_closed_connection_ends_though_the_other_side_says_no_farewell(silent: int) -> None:
    """The loops' own patience is 30 s, and aiokafka waits for it."""
    cut_slow_ends()
    context = ssl.create_default_context(cafile=TLS / "authority.pem")
    connection = AIOKafkaConnection("127.0.0.1", silent, security_protocol="SSL", ssl_context=context)
    loop = asyncio.get_running_loop()
    connection._closed_fut = loop.create_future()
    reader = asyncio.StreamReader()
    protocol = AIOKafkaProtocol(connection._closed_fut, reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, "127.0.0.1", silent, ssl=context)
    connection._reader, connection._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)
    connection._read_task = connection._create_reader_task()
    await asyncio.wait_for(connection.close(), 10)
    assert connection.close().done(), "closing twice is harmless"
