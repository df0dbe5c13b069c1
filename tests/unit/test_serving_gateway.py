"""An agent that dials in: what would end its stream, or keep it waiting on one that is dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents_io import agent
from agents_io.errors import ClientError, RateLimited
from agents_io.serving.gateway import MAX_MESSAGE_BYTES, DialFailed, GatewayAgent
from agents_io.transport import Call
from tests.support.gateways import Book, Node, node
from tests.support.wait import until


@agent("a")
async def echo(payload: dict[str, Any]) -> Any:
    """What came, or as many letters."""
    return "x" * payload["letters"] if "letters" in payload else payload


async def ask(at: Node, body: bytes = b'{"n":1}') -> Any:
    """One call."""
    record = at.registrar.book.records["a"]
    return (await at.transport.call(record, Call("t", "t", body, 10.0))).value


async def test_an_answer_that_no_message_can_hold_fails_alone() -> None:
    """The stream lives on, and with it the other calls."""
    async with node(Book()) as at, GatewayAgent(echo, [at.address]):
        with pytest.raises(ClientError, match="the answer takes"):
            await ask(at, b'{"letters":%d}' % MAX_MESSAGE_BYTES)
        assert await ask(at) == {"n": 1}
        assert [status for _, status in at.registrar.book.log] == ["healthy"]


async def test_a_full_agent_says_when_to_try_again() -> None:
    """As over HTTP: the wait uses up no attempt of the task."""
    go = asyncio.Event()

    @agent("a", concurrency=1)
    async def slow(payload: Any) -> Any:
        """What came, later."""
        await go.wait()
        return payload

    async with node(Book()) as at, GatewayAgent(slow, [at.address]):
        first = asyncio.create_task(ask(at))
        await asyncio.sleep(0.1)
        with pytest.raises(RateLimited) as caught:
            await at.transport.call(at.registrar.book.records["a"], Call("t2", "t2", b"{}", 10.0))
        assert caught.value.retry_after_s == 1.0
        go.set()
        assert await first == {"n": 1}


async def test_an_agent_dials_again_while_it_cannot_be_registered() -> None:
    """The worker's brokers are away for a moment, at its first connection or a later one. A refusal ends the agent."""
    async with node(Book()) as at:
        at.registrar.not_now = 2
        async with GatewayAgent(echo, [at.address]) as running:
            assert await ask(at) == {"n": 1}
            at.registrar.not_now = 2
            key = at.gateway.key_of("a")
            assert key is not None
            at.gateway.drop("a", key, "")
            await until(lambda: at.registrar.not_now == 0 and at.gateway.presence("a"))
            assert await ask(at) == {"n": 1}
            at.registrar.refuse = "agent_id: is registered with protocol http"
            at.gateway.drop("a", at.gateway.key_of("a") or "", "")
            with pytest.raises(DialFailed, match="registered with protocol http"):
                async with asyncio.timeout(10):
                    await running.failed()
        assert at.gateway.refused == 5


async def test_a_first_connection_that_fails_for_long_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's last one."""
    monkeypatch.setattr("agents_io.serving.gateway.CONNECT_TIMEOUT_S", 1.0)
    async with node(Book()) as at:
        at.registrar.not_now = 1000
        with pytest.raises(TimeoutError, match="UNAVAILABLE it could not be registered now"):
            async with GatewayAgent(echo, [at.address]):
                pass


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


async def test_a_worker_that_disappeared_silently_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine is gone, so nothing ends the connection: the next gateway is dialled all the same."""
    monkeypatch.setattr("agents_io.serving.gateway.HEARTBEAT_MS", 100)
    book = Book()
    async with (
        node(book, "n1") as first,
        node(book, "n2") as second,
        linked(first.address) as (link, address),
        GatewayAgent(echo, [address, second.address]),
    ):
        assert await ask(first) == {"n": 1}
        await asyncio.sleep(0.5)  # the gateway pings
        link.dead = True
        await until(lambda: second.gateway.key_of("a") is not None, 20)
        assert await ask(second) == {"n": 1}
