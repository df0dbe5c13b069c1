"""How connections to agents are opened: lookups, addresses that do not answer, the guard on addresses, TLS."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from agents_io.errors import ForbiddenTarget, InternalError
from agents_io.http import connecting
from agents_io.http.connecting import Connector, Origin
from agents_io.http.pooled_transport import PooledTransport
from agents_io.lookup import system_lookup
from agents_io.protocols.http.transport import HttpTransport
from agents_io.rules.targets import AllowList
from agents_io.transport import Call
from schemas.messages import AgentRegistration
from tests.support.raw_http import Server, hangs, read, serving, transport
from tests.support.wait import until


async def test_an_address_that_refuses_is_followed_by_the_next() -> None:
    """Of the other family too, if there is one here."""
    async with serving() as server:

        async def lookup(host: str, port: int) -> list[str]:
            return ["::1", "127.0.0.2", "127.0.0.1"]

        async with transport(connector=Connector(lookup)) as one:
            assert await read(await one.handle_async_request(server.request(host="agent.test"))) == b"ok"


async def test_an_address_that_does_not_answer_delays_the_next_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second, not the kernel's two minutes."""
    monkeypatch.setattr(connecting, "FALLBACK_DELAY_S", 0.05)
    with socket.socket() as full:
        # Listening with a full backlog: further connections get no answer at all.
        full.bind(("127.0.0.2", 0))
        port = full.getsockname()[1]
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))

        async def lookup(host: str, number: int) -> list[str]:
            return ["127.0.0.2", "127.0.0.1"]

        try:
            async with serving(hangs, "127.0.0.1", port) as server:
                connecting_now = Connector(lookup).connect(Origin("agent.test", port, None), lambda lost: None)
                connection = await asyncio.wait_for(connecting_now, 3)
                await until(lambda: server.connections == 1)
                connection.abort()
                await until(lambda: server.closed == 1)
        finally:
            for filler in fillers:
                filler.close()


async def test_answers_of_the_lookup_are_kept_for_a_while_and_used_in_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers at the same time share one lookup, and one that gives up does not take it from the others."""
    asked = 0
    gate = asyncio.Event()

    async def lookup(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        await gate.wait()
        return ["127.0.0.1", "127.0.0.2"]

    one = Connector(lookup)
    async with serving(hangs) as first, serving(hangs, "127.0.0.2", first.port) as second:

        async def connect() -> None:
            connection = await one.connect(Origin("agent.test", first.port, None), lambda lost: None)
            connection.abort()

        callers = [asyncio.ensure_future(connect()) for _ in range(3)]
        await asyncio.sleep(0)
        callers[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*callers[1:])
        assert asked == 1
        await until(lambda: (first.closed, second.closed) == (1, 1))
        monkeypatch.setattr(connecting, "CACHE_TTL_S", -1.0)
        await connect()
        assert asked == 2
        await until(lambda: first.closed + second.closed == 3)


async def test_a_lookup_that_is_under_way_when_the_pool_closes_is_a_failure_to_connect() -> None:
    """Its caller was not cancelled, so it must not look as if it was."""

    looking = asyncio.Event()

    async def lookup(host: str, port: int) -> list[str]:
        looking.set()
        await asyncio.Event().wait()
        return []

    one = PooledTransport(connector=Connector(lookup))
    call = asyncio.ensure_future(one.handle_async_request(httpx.Request("POST", "http://agent.test:1/")))
    await looking.wait()
    await one.aclose()
    with pytest.raises(httpx.ConnectError, match="closing"):
        await asyncio.wait_for(call, 5)
    assert one.pool.in_use == 0


async def test_a_lookup_that_fails_is_a_failure_to_connect() -> None:
    """And is not kept."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        raise OSError(-2, "Name or service not known")

    one = Connector(lookup)
    hosts = ["agent.test", "agent.test", "a" * 300]
    for host in hosts:
        with pytest.raises(httpx.TransportError, match=r"cannot connect to|label"):
            await one.connect(Origin(host, 1, None), lambda lost: None)
    assert asked == hosts


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process can open nothing more: all descriptors below its limit are in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
async def test_no_descriptors_left_is_not_the_agents_fault(addresses: list[str]) -> None:
    """However many addresses it has."""

    async def lookup(host: str, port: int) -> list[str]:
        return addresses

    transport = HttpTransport(PooledTransport(connector=Connector(lookup)))
    with pytest.raises(InternalError, match="this worker could not connect"), no_descriptors_left():
        await transport.call(AgentRegistration(id="a", endpoint="http://agent.test:1"), Call("t", "t", b"{}", 5.0))
    await transport.close()


async def test_the_guard_looks_at_addresses_too_and_keeps_no_lookup() -> None:
    """Written in the URL or looked up; one bad address is enough."""
    found = ["127.0.0.1"]

    async def lookup(host: str, port: int) -> list[str]:
        return found

    async with serving() as server:
        one = Connector(lookup, AllowList([], ["127.0.0.1/32"]).check_text)
        connection = await one.connect(Origin("agent.test", server.port, None), lambda lost: None)
        connection.abort()
        found = ["127.0.0.1", "10.0.0.1"]
        for host in ("agent.test", "127.0.0.2", "10.0.0.1", "::ffff:10.0.0.1"):
            with pytest.raises(ForbiddenTarget, match="is not public"):
                await one.connect(Origin(host, server.port, None), lambda lost: None)
        assert server.connections <= 1


async def test_the_systems_lookup() -> None:
    """Addresses as text."""
    assert set(await system_lookup("localhost", 1)) & {"127.0.0.1", "::1"}


async def test_hosts_whose_name_server_is_silent_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of their lookups takes as long as the resolver is patient."""
    given_up, real = threading.Event(), socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if host.startswith("dead"):
            given_up.wait(20)
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    dead = [asyncio.create_task(system_lookup(f"dead{n}.test", 1)) for n in range(50)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            assert await system_lookup("localhost", 1)
    finally:
        given_up.set()
        ends = await asyncio.gather(*dead, return_exceptions=True)
    assert all(isinstance(end, OSError) for end in ends)


async def test_a_server_without_tls_is_a_failure_to_connect() -> None:
    """In good time, and nothing stays open."""

    async def no_tls(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(no_tls) as server, transport() as one:
        request = httpx.Request("POST", f"https://127.0.0.1:{server.port}/")
        with pytest.raises(httpx.ConnectError, match="cannot connect"):
            await one.handle_async_request(request)
        assert one.pool.in_use == 0
