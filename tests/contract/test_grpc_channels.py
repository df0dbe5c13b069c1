"""gRPC's channels: how many there are, which are given up, agents that go and come back; also on the worker's own loop."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from agents_io.errors import AgentError, CallTimeout, ConnectionFailed
from agents_io.fakes.steps import ScriptStep, answer, hang, reset
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.transport import Call
from schemas.messages import AgentRegistration
from tests.support.grpc_rig import rig_of
from tests.support.wait import until


async def test_nobody_listens_is_told_at_once_and_an_agent_that_is_back_is_called_at_once() -> None:
    """gRPC's reconnect back-off (a second, then more) stands between neither."""
    async with GrpcFakeAgent() as fake:
        port = int(fake.endpoint.rpartition(":")[2])
    transport = GrpcTransport()
    agent = AgentRegistration(id="a", endpoint=f"grpc://127.0.0.1:{port}")
    for _ in range(4):
        begun = time.monotonic()
        with pytest.raises(ConnectionFailed):
            await transport.call(agent, Call("t", "t", b"{}", 20.0))
        assert time.monotonic() - begun < 5
    async with GrpcFakeAgent(port=port):
        answers = await asyncio.gather(*(transport.call(agent, Call("t", "t", b"{}", 20.0)) for _ in range(5)))
        assert [found.value for found in answers] == ["ok"] * 5
    await transport.close()


async def test_line_that_is_cut_fails_every_call_on_it_and_the_next_has_another() -> None:
    """Also those that were only waiting."""
    async with rig_of(hang(times=5), answer()) as rig:
        calls = [asyncio.create_task(rig.call(timeout_s=60)) for _ in range(5)]
        await until(lambda: rig.fake.in_flight == 5)
        rig.fake.cut()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionFailed] * 5
        assert (await rig.call()).value == "ok"
        assert rig.fake.connections == 2


async def test_timeout_gives_the_next_call_a_line_of_its_own() -> None:
    """The agent's host may have gone without a word; those under way on the old line are left alone."""
    async with rig_of(hang(times=1), answer(delay_s=0.5, times=1), answer("new")) as rig:
        with_the_first = asyncio.create_task(rig.call(timeout_s=0.2))
        await until(lambda: rig.fake.in_flight == 1)
        second = asyncio.create_task(rig.call())
        with pytest.raises(CallTimeout):
            await with_the_first
        assert (await rig.call()).value == "new"
        assert (await second).value == "ok"
        assert rig.fake.connections == 2
        await until(lambda: rig.fake.open_connections == 1)


async def test_one_line_for_all_calls_to_one_endpoint() -> None:
    """Twenty at once, twenty one by one."""
    async with rig_of(answer(delay_s=0.02)) as rig:
        await asyncio.gather(*(rig.call() for _ in range(20)))
        for _ in range(20):
            await rig.call()
        assert (rig.fake.connections, len(rig.transport.channels)) == (1, 1)


async def test_lines_are_bounded_and_idle_ones_closed() -> None:
    """The oldest idle line makes room; a line nobody used for a while is closed when another is given back."""
    fakes = [GrpcFakeAgent() for _ in range(3)]
    for fake in fakes:
        await fake.__aenter__()
    transport = GrpcTransport(max_channels=2, idle_s=0.3)
    agents = [AgentRegistration(id=fake.endpoint, endpoint=fake.endpoint) for fake in fakes]
    for agent in agents:
        await transport.call(agent, Call("t", "t", b"{}", 10.0))
    assert len(transport.channels) == 2
    await until(lambda: fakes[0].open_connections == 0)
    await asyncio.sleep(0.4)
    await transport.call(agents[0], Call("t", "t", b"{}", 10.0))
    assert len(transport.channels) == 1
    await until(lambda: fakes[1].open_connections + fakes[2].open_connections == 0)
    await transport.close()
    for fake in fakes:
        await fake.__aexit__(None, None, None)


async def test_closing_the_transport_beneath_a_call_is_an_error_of_the_call() -> None:
    """Not a cancellation nobody asked for."""
    async with rig_of(hang()) as rig:
        call = asyncio.create_task(rig.call(timeout_s=60))
        await until(lambda: rig.fake.in_flight == 1)
        await rig.transport.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            await call


async def test_reset_is_a_failed_connection_also_in_a_stream() -> None:
    """With some results read already."""
    async with rig_of(reset(after_bytes=1, times=1), answer("last")) as rig:
        with pytest.raises(ConnectionFailed):
            await rig.call(metadata={"stream": True})
        assert (await rig.call(metadata={"stream": True})).value == "last"


async def test_a_stream_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many results are read; the agent sees the stream end."""
    monkeypatch.setattr("agents_io.protocols.grpc.transport.MAX_RESULTS", 3)
    async with rig_of(ScriptStep("drip")) as rig:
        with pytest.raises(AgentError, match="more than 3 results") as kept:
            await rig.call(timeout_s=60, metadata={"stream": True})
        await until(lambda: rig.fake.calls[0].ended == "closed")
        assert kept.value.code == "too_large"


def test_on_uvloop() -> None:
    """The worker's loop: answers, timeouts, cancelling and streams are the same there."""

    async def all_of_it() -> None:
        async with rig_of(answer(times=2), hang(times=2), answer()) as rig:
            assert (await rig.call()).value == "ok"
            assert (await rig.call(metadata={"stream": True})).value == "ok"
            with pytest.raises(CallTimeout):
                await rig.call(timeout_s=0.2)
            await until(lambda: rig.fake.calls[-1].ended == "closed")
            task = asyncio.create_task(rig.call(timeout_s=60))
            await until(lambda: rig.fake.in_flight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: rig.fake.in_flight == 0)
            answers = await asyncio.gather(*(rig.call() for _ in range(20)))
            assert len(answers) == 20

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_it())
