"""Agents that dial in, over real streams on loopback: who is taken in, who is cut off, and how calls end then."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from agents_io.errors import AgentError, CallTimeout, ConnectionFailed, InternalError, RateLimited, Unsupported
from agents_io.fakes.steps import answer, compute, hang
from agents_io.grpc.services import method
from agents_io.protocols.gateway.fake import GatewayFakeAgent
from agents_io.protocols.gateway.relay import KEEPALIVE, SERVICE, RelayService, Route
from agents_io.protocols.gateway.rules.session import SessionConfig
from agents_io.protocols.gateway.stream import NotHere, Stream
from agents_io.protocols.gateway.transport import HopLost
from agents_io.secret_refs import Secret
from agents_io.transport import Answer, Call
from schemas.messages import SecretRef
from schemas.pb import gateway_pb2
from schemas.pb.gateway_pb2 import AgentHeartbeat, AgentHello, AgentToControlPlane, TaskRequest, TaskResult
from tests.support.gateways import Book, Node, node
from tests.support.health import is_well
from tests.support.link import linked
from tests.support.wait import until

QUICK = SessionConfig(missed=3, min_interval_s=0.05)
ECHO = compute(lambda payload: {"value": payload, "confidence": 1})


async def call(at: Node, key: str = "t1", *, name: str = "a", body: bytes = b"{}", timeout_s: float = 10.0) -> Answer:
    """One call to an agent, as the registration in the book has it."""
    return await at.transport.call(at.registrar.book.records[name], Call(key, key, body, timeout_s))


async def ends(*calls: asyncio.Task[Answer]) -> list[Any]:
    """How they end."""
    return await asyncio.gather(*calls, return_exceptions=True)


def begun(at: Node, count: int, **options: Any) -> list[asyncio.Task[Answer]]:
    """Several calls at once."""
    return [asyncio.create_task(call(at, f"t{n}", **options)) for n in range(count)]


async def talk(address: str, *messages: AgentToControlPlane) -> list[Any]:
    """Say these on a stream of one's own, and return what comes until its end."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = method(channel, gateway_pb2, "AgentGateway", "Connect")()
        for message in messages:
            await stream.write(message)
        found = []
        async with asyncio.timeout(10):
            while (said := await stream.read()) is not grpc.aio.EOF:
                found.append(said)
        return found


async def refusal(address: str, token: str = "") -> grpc.aio.AioRpcError:
    """How a connection is turned away that has not even said hello."""
    async with grpc.aio.insecure_channel(address) as channel:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        stream = method(channel, gateway_pb2, "AgentGateway", "Connect")(metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), 10)
        return caught.value


# --- coming --------------------------------------------------------------------------------------------------------------


async def test_the_first_message_must_be_hello_and_the_first_answer_is_the_ack() -> None:
    """Whoever begins otherwise is told, and cut off."""
    async with node(Book()) as here:
        found = await talk(here.address, AgentToControlPlane(heartbeat=AgentHeartbeat(agent_id="a")))
        assert [(m.ack.accepted, m.ack.message) for m in found] == [(False, "the first message must be hello")]
        async with GatewayFakeAgent("a", gateways=[here.address]) as agent:
            assert agent.acks[0].accepted
            assert agent.acks[0].assigned_node_id == "n1"


async def test_refused_with_a_sentence() -> None:
    """By the registrar, or for an id that is none; it holds nothing then."""
    async with node(Book()) as here:
        here.registrar.refuse = "agent_id: is somebody else's"
        found = await talk(here.address, AgentToControlPlane(hello=AgentHello(agent_id="a")))
        assert [(m.ack.accepted, m.ack.message) for m in found] == [(False, "agent_id: is somebody else's")]
        found = await talk(here.address, AgentToControlPlane(hello=AgentHello()))
        assert found[0].ack.message == "agent_id: must have 1 to 256 characters"
        assert here.gateway.present() == {}
        assert here.registrar.book.log == []


async def test_a_wrong_token_is_unauthenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With none as well; the right one is taken, and a secret that cannot be read lets nobody in."""
    monkeypatch.setenv("GATEWAY_TOKEN", "s3cret")
    async with node(Book(), token=Secret(SecretRef(env="GATEWAY_TOKEN"))) as here:
        for token in ("", "wrong"):
            error = await refusal(here.address, token)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "s3cret" not in str(error.details())
        async with GatewayFakeAgent("a", gateways=[here.address], token="s3cret") as agent:
            assert agent.accepted == 1
        assert here.gateway.refused == 2
    async with node(Book(), token=Secret(SecretRef(env="NO_SUCH"))) as here:
        assert (await refusal(here.address, "x")).code() is grpc.StatusCode.UNAVAILABLE


async def test_no_more_agents_than_may_be() -> None:
    """The next one is told to go elsewhere."""
    async with node(Book(), max_sessions=1) as here, GatewayFakeAgent("a", gateways=[here.address]):
        assert (await refusal(here.address)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_newest_connection_holds_and_the_old_one_is_told() -> None:
    """Its calls end without blame for the agent, since the agent is there."""
    async with (
        node(Book()) as here,
        GatewayFakeAgent("a", hang(), gateways=[here.address], redial_s=60) as old,
    ):
        (running,) = begun(here, 1, timeout_s=30)
        await until(lambda: old.in_flight == 1, 10)
        async with GatewayFakeAgent("a", answer("new"), gateways=[here.address]):
            (end,) = await ends(running)
            assert isinstance(end, HopLost)
            assert not end.counts_against_agent
            await until(lambda: len(old.acks) == 2, 10)
            assert (old.acks[1].accepted, old.acks[1].message) == (
                False,
                "a newer connection of this agent has taken its place",
            )
            assert (await call(here)).value == "new"
            assert not any(kind == "away" for _, kind in here.registrar.book.log)


# --- going ---------------------------------------------------------------------------------------------------------------


async def test_an_agent_whose_heartbeats_stop_is_lost() -> None:
    """Its stream is closed, its calls fail, and the others are told: however alive the connection itself is."""
    async with (
        node(Book(), config=QUICK, patience_s=0.2) as here,
        GatewayFakeAgent("a", hang(), gateways=[here.address], interval_ms=100, redial_s=60) as agent,
    ):
        (running,) = begun(here, 1, timeout_s=30)
        await until(lambda: agent.in_flight == 1, 10)
        await asyncio.sleep(0.6)
        assert not running.done(), "heartbeats keep it"
        agent.mute = True
        (end,) = await asyncio.wait_for(ends(running), 8)
        assert isinstance(end, ConnectionFailed)
        assert "its heartbeats stopped" in end.message
        assert end.counts_against_agent
        assert ("a", "its heartbeats stopped") in here.registrar.book.log
        assert not await is_well(here.transport, here.registrar.book.records["a"], 1.0)
        with pytest.raises(ConnectionFailed, match="is not connected"):
            await call(here)


async def test_one_hang_up_is_one_failure_of_the_agent() -> None:
    """Five calls end by it; a circuit that opens at five failures must not open by that."""
    async with (
        node(Book()) as here,
        GatewayFakeAgent("a", [hang(times=5), answer()], gateways=[here.address]) as agent,
    ):
        running = begun(here, 5, timeout_s=30)
        await until(lambda: agent.in_flight == 5, 10)
        agent.cut()
        found = await ends(*running)
        assert all(isinstance(end, ConnectionFailed) and end.retryable for end in found)
        assert Counter(end.counts_against_agent for end in found) == {True: 1, False: 4}
        assert (await call(here, "again")).value == "ok"


async def test_a_call_waits_for_an_agent_that_comes_back() -> None:
    """Also to another worker; and does not wait for ever."""
    book = Book()
    async with node(book, "n1") as one, node(book, "n2") as two:
        async with GatewayFakeAgent("a", answer("first"), gateways=[one.address]):
            assert (await call(two)).value == "first"
        await until(lambda: one.gateway.key_of("a") is None, 10)
        waiting = asyncio.create_task(call(one, timeout_s=30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        async with GatewayFakeAgent("a", answer("second"), gateways=[two.address]):
            assert (await waiting).value == "second"
        await until(lambda: two.gateway.key_of("a") is None, 10)
        with pytest.raises(ConnectionFailed, match="is not connected"):
            await call(one, timeout_s=0.3)


async def test_draining_finishes_what_it_has_and_is_asked_nothing_more() -> None:
    """Until it says that it is well again."""
    async with (
        node(Book(), patience_s=0.2) as here,
        GatewayFakeAgent("a", answer(delay_s=0.4), gateways=[here.address]) as agent,
    ):
        (running,) = begun(here, 1)
        await until(lambda: agent.in_flight == 1, 10)
        agent.status, agent.load = "draining", 0.7
        agent.beat()
        await until(lambda: ("a", "draining") in here.registrar.book.log, 10)
        assert (await running).value == "ok"
        with pytest.raises(ConnectionFailed):
            await call(here, "t2")
        presence = here.gateway.presence("a")
        assert presence is not None
        assert (presence.status, presence.load, presence.outstanding) == ("draining", 0.7, 0)
        assert not await is_well(here.transport, here.registrar.book.records["a"], 1.0)
        agent.status = "healthy"
        agent.beat()
        await until(lambda: here.registrar.book.log[-1] == ("a", "healthy"), 10)
        assert (await call(here, "t3")).value == "ok"
        assert await is_well(here.transport, here.registrar.book.records["a"], 1.0)


async def test_a_gateway_that_closes_lets_calls_end_and_takes_none() -> None:
    """Then its streams end, and nobody is blamed for what could not end."""
    async with (
        node(Book(), patience_s=0.1) as here,
        GatewayFakeAgent("a", answer(delay_s=0.3), gateways=[here.address], redial_s=60) as agent,
        GatewayFakeAgent("b", hang(), gateways=[here.address], redial_s=60) as stuck,
    ):
        good, bad = asyncio.create_task(call(here)), asyncio.create_task(call(here, name="b"))
        await until(lambda: agent.in_flight + stuck.in_flight == 2, 10)
        closing = asyncio.create_task(here.gateway.close(drain_s=1.0))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionFailed):
            await call(here, "t2")
        assert (await good).value == "ok"
        (end,) = await ends(bad)
        assert isinstance(end, HopLost)
        await closing
        assert here.gateway.present() == {}
        assert agent.calls[-1].key == "t1"


# --- one call ------------------------------------------------------------------------------------------------------------


async def test_deadline_and_cancel_reach_the_agent_with_their_reasons() -> None:
    """As CancelTask for the very request; what is left of the time is told with the task."""
    async with node(Book()) as here, GatewayFakeAgent("a", hang(), gateways=[here.address]) as agent:
        with pytest.raises(CallTimeout):
            await call(here, timeout_s=0.25)
        (running,) = begun(here, 1, timeout_s=30)
        await until(lambda: len(agent.calls) == 2, 10)
        running.cancel()
        await until(lambda: len(agent.cancels) == 2, 10)
        assert [(c.task_id, c.reason) for c in agent.cancels] == [
            ("t1", "the deadline passed"),
            ("t0", "the task was cancelled"),
        ]
        assert agent.calls[0].payload.timeout_ms == 250


async def test_late_unknown_and_double_answers_are_ignored_and_counted() -> None:
    """Another task's answer can never be taken for this one's."""
    async with node(Book()) as here, GatewayFakeAgent("a", hang(times=1), gateways=[here.address]) as agent:
        agent.script([hang(times=1), ECHO])
        with pytest.raises(CallTimeout):
            await call(here, timeout_s=0.1)
        key = here.gateway.key_of("a")
        for request_id in (f"{key}-1", f"{key}-7", "", "nonsense"):
            lie = TaskResult(task_id="t2", value_json='"a lie"', confidence=1.0)
            agent.say(AgentToControlPlane(request_id=request_id, task_result=lie))
        found = await asyncio.gather(*(call(here, f"t{n}", body=b"%d" % n) for n in range(2, 5)))
        assert [end.value for end in found] == [2, 3, 4]
        assert here.gateway.counters() == {"answered": 3, "late": 1, "unknown": 3, "stray": 0, "refused": 0}


async def test_a_request_given_up_before_it_was_written_is_never_sent() -> None:
    """An agent that is slow to read is not told of what nobody wants any more."""
    stream = Stream("k", SessionConfig())
    stream.session.hello("a", 1000, 0.0)
    stream.session.opened()
    stream.ready.set()
    with pytest.raises(TimeoutError):
        await stream.ask(TaskRequest(task_id="t1"), 0.05)
    written: list[Any] = []

    class Context:
        async def write(self, message: Any) -> None:
            written.append(message)
            if message.request_id == "k-2":
                stream.answered(AgentToControlPlane(request_id="k-2", task_result=TaskResult(value_json="1")))

    asking = asyncio.create_task(stream.ask(TaskRequest(task_id="t2"), 5.0))
    writing = asyncio.create_task(stream.write(Context()))
    assert (await asking).task_result.value_json == "1"
    assert [message.request_id for message in written] == ["k-2"]
    writing.cancel()


async def test_pings_when_there_is_nothing_else_to_say() -> None:
    """The agent answers them, so that silence is loss."""
    async with (
        node(Book(), config=QUICK) as here,
        GatewayFakeAgent("a", gateways=[here.address], interval_ms=100) as agent,
    ):
        await until(lambda: agent.pings >= 3, 10)
        assert agent.accepted == 1
        assert here.gateway.present().keys() == {"a"}


async def test_an_agent_that_does_not_read_holds_up_no_other_and_is_cut_off() -> None:
    """Its heartbeats come, so that only the writing tells."""
    book = Book()
    async with (
        node(book, config=QUICK) as here,
        GatewayFakeAgent("b", ECHO, gateways=[here.address], interval_ms=500) as well,
    ):
        async with grpc.aio.insecure_channel(here.address) as channel:
            stream = method(channel, gateway_pb2, "AgentGateway", "Connect")()
            await stream.write(AgentToControlPlane(hello=AgentHello(agent_id="a", heartbeat_interval_ms=300)))
            await stream.read()

            async def beat() -> None:
                while True:
                    await stream.write(AgentToControlPlane(heartbeat=AgentHeartbeat(agent_id="a")))
                    await asyncio.sleep(0.1)

            beating = asyncio.create_task(beat())
            big = b'{"data": {"text": "' + b"x" * 1_000_000 + b'"}}'
            stuck = begun(here, 20, body=big, timeout_s=30)
            while not all(running.done() for running in stuck):
                assert (await call(here, "w", name="b", body=b"7", timeout_s=5)).value == 7
                await asyncio.sleep(0.02)
            found = await ends(*stuck)
            assert {type(end) for end in found} == {ConnectionFailed, HopLost}
            assert "does not read" in found[0].message
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            stream.cancel()
        assert well.accepted == 1


async def test_a_task_larger_than_agents_accept_is_not_sent() -> None:
    """It would end the stream with every call on it."""
    async with node(Book()) as here, GatewayFakeAgent("a", gateways=[here.address]) as agent:
        with pytest.raises(Unsupported, match=r"payload: takes \d+ bytes"):
            await call(here, body=b'{"text": "' + b"x" * 4_200_000 + b'"}')
        assert (await call(here)).value == "ok"
        assert (len(agent.calls), agent.accepted) == (1, 1)


# --- from worker to worker -----------------------------------------------------------------------------------------------


async def test_a_worker_that_is_gone_is_no_fault_of_the_agents_and_fails_at_once() -> None:
    """Calls under way when it goes; and calls after it wait for the agent's next record, not for a timeout."""
    book = Book()
    async with node(book, "home") as home:
        async with (
            node(book, "other") as other,
            GatewayFakeAgent("a", hang(), gateways=[other.address], redial_s=60) as agent,
        ):
            running = begun(home, 3, timeout_s=60)
            await until(lambda: agent.in_flight == 3, 10)
            stale = book.records["a"]
            await other.server.stop(None)  # as a kill would: no word of the gateway's own
            found = await asyncio.wait_for(ends(*running), 10)
            assert {type(end) for end in found} == {HopLost}
            assert all(end.retryable and not end.counts_against_agent for end in found)
        book.write("a", stale)  # nobody was left to say that it is away
        waiting = asyncio.create_task(call(home, timeout_s=60))
        await asyncio.sleep(0.3)
        async with node(book, "third") as third, GatewayFakeAgent("a", answer("back"), gateways=[third.address]):
            waited = await ends(waiting)
            assert isinstance(waited[0], HopLost) or waited[0].value == "back"
            assert (await call(home, "t2", timeout_s=60)).value == "back"


async def test_a_worker_that_is_frozen_is_no_fault_of_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the stream and says nothing; an agent that says nothing is another matter."""
    book = Book()
    async with (
        node(book, "home") as home,
        node(book, "other") as other,
        GatewayFakeAgent("a", hang(), gateways=[other.address]),
    ):
        with pytest.raises(CallTimeout):
            await call(home, timeout_s=0.2)

        async def frozen(*_: Any) -> AgentToControlPlane:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets this event")

        monkeypatch.setattr(other.gateway, "ask", frozen)
        with pytest.raises(HopLost, match="did not answer"):
            await call(home, "t2", timeout_s=0.2)


async def test_a_call_over_a_worker_that_disappeared_ends_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine is gone: nothing ends the connection. Not the agent's fault."""
    quick = tuple((name, value // 10) for name, value in KEEPALIVE)
    monkeypatch.setattr("agents_io.protocols.gateway.relay.KEEPALIVE", quick)
    book = Book()
    async with node(book, "home") as home, node(book, "other") as other, linked(other.address) as (link, address):
        other.registrar.address = address
        async with GatewayFakeAgent("a", hang(), gateways=[other.address]) as agent:
            calls = begun(home, 1, timeout_s=60.0)
            await until(lambda: agent.in_flight == 1)
            await asyncio.sleep(2.5)  # pings that were answered must not hold up the next
            link.dead = True
            async with asyncio.timeout(20):
                [end] = await ends(*calls)
            assert isinstance(end, HopLost)


async def test_another_worker_at_the_same_address_is_not_mistaken_for_the_one_meant() -> None:
    """Ports are used again; the node's name is not."""
    async with node(Book(), "n1") as here, GatewayFakeAgent("a", gateways=[here.address]) as agent:
        relay = here.relay
        key = here.gateway.key_of("a") or ""
        with pytest.raises(NotHere):
            await relay.ask(Route(here.address, "another", key), "a", TaskRequest(task_id="t"), 5.0)
        with pytest.raises(NotHere):
            await relay.ask(Route(here.address, "n1", key), "nobody", TaskRequest(task_id="t"), 5.0)
        assert len(agent.calls) == 0
        found = await relay.presence(Route(here.address, "n1", key), "a", 5.0)
        assert found == {"status": "healthy", "load": None, "outstanding": 0} | {"load": found and found["load"]}


async def test_the_hop_asks_for_the_shared_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with another one is our own fault: not the agent's, and told by the setting's name."""
    monkeypatch.setenv("ONE", "s3cret-1")
    monkeypatch.setenv("TWO", "s3cret-2")
    book = Book()
    one, two = Secret(SecretRef(env="ONE")), Secret(SecretRef(env="TWO"))
    async with (
        node(book, "n1", relay_token=one) as holder,
        node(book, "n2", relay_token=one) as friend,
        node(book, "n3", relay_token=two) as stranger,
        node(book, "n4") as naked,
        GatewayFakeAgent("a", gateways=[holder.address]) as agent,
    ):
        assert (await call(friend)).value == "ok"
        for other in (stranger, naked):
            with pytest.raises(InternalError, match=r"gateway\.relay_token") as caught:
                await call(other)
            assert "s3cret" not in caught.value.message
            assert not caught.value.counts_against_agent
        assert len(agent.calls) == 1


async def test_without_a_shared_token_the_hop_is_for_this_machine_alone() -> None:
    """Whoever reaches the port from elsewhere cannot call agents through it, also knowing the node's name."""
    async with node(Book()) as here, GatewayFakeAgent("a", gateways=[here.address]) as agent:

        class Abort(Exception):
            pass

        class Context:
            def invocation_metadata(self) -> Any:
                return (("node", "n1"), ("agent-bin", b"a"))

            def peer(self) -> str:
                return "ipv4:10.0.0.9:4711"

            async def abort(self, code: grpc.StatusCode, why: str) -> None:
                raise Abort(code, why)

        called = SimpleNamespace(method=f"/{SERVICE}/Ask", invocation_metadata=())
        ask: Any = RelayService(here.gateway, None).handler().service(called)
        with pytest.raises(Abort, match=r"gateway\.relay_token") as caught:
            await ask.unary_unary(TaskRequest(task_id="t", timeout_ms=100), Context())
        assert caught.value.args[0] is grpc.StatusCode.PERMISSION_DENIED
        assert len(agent.calls) == 0


async def test_the_hop_is_bounded() -> None:
    """Too many calls at once are refused at once."""
    book = Book()
    async with (
        node(book, "home") as home,
        node(book, "other", max_calls=2) as other,
        GatewayFakeAgent("a", answer(delay_s=0.5), gateways=[other.address]),
    ):
        found = await ends(*begun(home, 5))
        assert Counter(type(end) for end in found) == {Answer: 2, RateLimited: 3}
        limited = next(end for end in found if isinstance(end, AgentError))
        assert limited.retryable
        assert not limited.counts_against_agent
