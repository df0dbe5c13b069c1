"""What only A2A has: cards, versions, tasks that take their time, cancelling them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import orjson
import pytest

from agents_io.errors import BadResponse, CallTimeout, ClientError, Refused, ServerError, Unsupported
from agents_io.fakes.steps import ScriptStep, answer, hang, raw
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.a2a.rules.message_ids import MessageIds
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.transport import Call
from schemas.messages import SecretRef
from tests.support.health import is_well
from tests.support.transport_rig import TransportRig, running
from tests.support.wait import until

Version = Literal["1.0", "0.3"]
Binding = Literal["JSONRPC", "HTTP+JSON"]
both = pytest.mark.parametrize("version", ["1.0", "0.3"])
bindings = pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])


CALL = Call("t", "key-1", b'{"n":1}', 10.0, context_id="c1")


def rigged(version: Version = "1.0", *steps: ScriptStep, **members: Any) -> AbstractAsyncContextManager[TransportRig]:
    """A fake with these members set."""
    fake = FakeA2a(steps)
    fake.version = version
    for name, value in members.items():
        setattr(fake, name, value)
    return running(fake, A2aTransport(), CALL, protocol="a2a")


def methods(rig: TransportRig) -> list[str]:
    """What was asked."""
    return [request["method"] for request in rig.fake.requests]


@both
async def test_the_card_says_version_and_path_but_never_the_host(version: Version) -> None:
    """The card's host is wrong; method names, roles, parts and header are those of the version."""
    async with rigged(version) as rig:
        assert (await rig.call()).value == "ok"
        sent = rig.fake.requests[0]
        message = sent["params"]["message"]
        assert sent["headers"]["A2A-Version"] == version
        assert (message["messageId"], message["contextId"]) == ("key-1", "c1")
        if version == "1.0":
            assert (sent["method"], message["role"]) == ("SendMessage", "ROLE_USER")
            assert message["parts"] == [{"data": {"n": 1}}]
            assert sent["params"]["configuration"]["returnImmediately"] is True
        else:
            assert (sent["method"], message["role"], message["kind"]) == ("message/send", "user", "message")
            assert message["parts"] == [{"kind": "data", "data": {"n": 1}}]
            assert sent["params"]["configuration"]["blocking"] is False


@both
@bindings
async def test_task_is_asked_for_until_it_is_done(version: Version, binding: Binding) -> None:
    """submitted, working, working, completed; then never again."""
    async with rigged(version, answer(7), binding=binding, states=("submitted", "working", "working")) as rig:
        assert (await rig.call()).value == 7
        _send, *gets = methods(rig)
        assert gets == ["GetTask" if version == "1.0" else "tasks/get"] * 3
        assert rig.fake.keys == {"key-1": 1}
        assert rig.fake.cancelled == []


@both
@bindings
async def test_task_that_is_not_done_in_time_is_cancelled_at_the_agent(version: Version, binding: Binding) -> None:
    """Nobody waits for it any more."""
    async with rigged(version, binding=binding, states=("working",) * 1000) as rig:
        with pytest.raises(CallTimeout, match=r"no answer within 0\.5 s"):
            await rig.call(timeout_s=0.5)
        await until(lambda: rig.fake.cancelled == ["task-0"])


@both
@bindings
async def test_cancelling_the_call_cancels_the_task_at_the_agent(version: Version, binding: Binding) -> None:
    """Once, and the transport goes on working."""
    async with rigged(version, binding=binding, states=("working",) * 1000) as rig:
        task = asyncio.create_task(rig.call(timeout_s=60.0))
        await until(lambda: len(rig.fake.requests) >= 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: rig.fake.cancelled == ["task-0"])
        rig.fake.states = ()
        assert (await rig.call()).value == "ok"


async def test_message_id_is_the_tasks_own_until_we_cancelled_it() -> None:
    """An agent that knows messages again must not answer the next attempt with the task we cancelled."""
    async with rigged("1.0", ScriptStep("status", code=500, times=1), answer(), states=("working",) * 1000) as rig:
        with pytest.raises(ServerError):
            await rig.call()
        for _ in range(2):
            with pytest.raises(CallTimeout):
                await rig.call(timeout_s=0.3)
        rig.fake.states = ()
        await rig.call()
        sends = [request for request in rig.fake.requests if request["method"] == "SendMessage"]
        ids = [request["params"]["message"]["messageId"] for request in sends]
        assert ids == ["key-1", "key-1", "key-1/2", "key-1/3"]


def test_cancelled_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten."""
    monkeypatch.setattr("agents_io.protocols.a2a.rules.message_ids.MAX_CANCELS", 2)
    ids = MessageIds()
    for key in ("a", "b", "a", "c"):
        ids.count_cancel(key)
    assert [ids.of(key) for key in "abc"] == ["a/3", "b", "c/2"]


async def test_agent_that_asks_for_input_is_told_to_forget_the_task() -> None:
    """At the first look or later."""
    for states in ((), ("working",)):
        async with rigged(states=states, end="input-required") as rig:
            with pytest.raises(Refused, match="it is input-required"):
                await rig.call()
            await until(lambda: rig.fake.cancelled == ["task-0"])


async def test_polling_slows_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of waiting costs a handful of questions."""
    monkeypatch.setattr("agents_io.protocols.a2a.transport.POLL_GROWTH", 2.0)
    async with rigged(states=("working",) * 1000) as rig:
        with pytest.raises(CallTimeout):
            await rig.call(timeout_s=1.0)
        assert 2 <= methods(rig).count("GetTask") <= 5


@both
@bindings
async def test_message_in_place_of_a_task(version: Version, binding: Binding) -> None:
    """Simple agents answer at once."""
    async with rigged(version, answer({"a": 1}, 0.5), binding=binding, as_message=True) as rig:
        found = await rig.call()
        assert (found.value, found.confidence) == ({"a": 1}, 0.5)


async def test_text_without_confidence_needs_a_default() -> None:
    """None is invented."""
    async with rigged("1.0", raw(b"four")) as rig:
        with pytest.raises(BadResponse, match="no confidence"):
            await rig.call()
        found = await rig.call(metadata={"defaultConfidence": 0.6})
        assert (found.value, found.confidence) == ("four", 0.6)


async def test_registration_may_name_the_url_and_version_itself() -> None:
    """No card is read."""
    async with rigged("0.3") as rig:
        rig.fake.healthy = False  # no card either
        changes = {"endpoint": rig.fake.endpoint + "/rpc", "metadata": {"a2aVersion": "0.3"}}
        assert (await rig.call(**changes)).value == "ok"
        assert await is_well(rig.transport, rig.agent.model_copy(update=changes), 5.0)
        with pytest.raises(Unsupported, match="a2aVersion"):
            await rig.call(metadata={"a2aVersion": "2"})


async def test_card_at_the_old_place() -> None:
    """agent.json, before 0.3."""
    async with rigged("0.3", old_card_path=True) as rig:
        assert (await rig.call()).value == "ok"


async def test_card_is_read_once_and_again_after_the_agent_moved() -> None:
    """A 4xx, by HTTP or JSON-RPC, makes the next call look again."""
    async with rigged("0.3") as rig:
        for _ in range(3):
            await rig.call()
        rig.fake.version = "1.0"
        with pytest.raises(ClientError, match="-32601"):
            await rig.call()
        assert (await rig.call()).value == "ok"
        rig.fake.version = "0.3"
        rig.fake.script([ScriptStep("status", code=404, times=1), answer()])
        with pytest.raises(ClientError):
            await rig.call()
        assert methods(rig) == ["message/send"] * 4 + ["SendMessage"] * 2


async def test_many_first_calls_read_the_card_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more when it has been kept long enough."""
    async with rigged() as rig:
        await asyncio.gather(*(rig.call() for _ in range(10)))
        assert rig.fake.cards_read == 1
        monkeypatch.setattr("agents_io.protocols.a2a.transport.CARD_KEPT_S", 0.0)
        await rig.call()
        assert rig.fake.cards_read == 2


@pytest.mark.parametrize(
    "card",
    [
        {"name": "n"},
        {"url": "http://h/", "protocolVersion": "0.3.0", "preferredTransport": "GRPC"},
        {"supportedInterfaces": [{"url": "http://h", "protocolBinding": "JSONRPC", "protocolVersion": "2.0"}]},
        [],
    ],
)
async def test_card_that_is_of_no_use(card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, no call is made, and the agent is not healthy."""
    async with rigged() as rig:
        monkeypatch.setattr(rig.fake, "card", lambda: card)
        with pytest.raises((BadResponse, Unsupported), match="agent card"):
            await rig.call()
        assert rig.fake.requests == []
        assert not await is_well(rig.transport, rig.agent, 5.0)


async def test_token_goes_to_the_registered_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that names another host would else collect tokens."""
    monkeypatch.setenv("A2A_TOKEN", "s3cret")
    async with rigged() as rig, rigged() as thief:
        card = rig.fake.card()
        card["supportedInterfaces"][0]["url"] = thief.fake.endpoint + "/rpc"
        monkeypatch.setattr(rig.fake, "card", lambda: card)
        await rig.call(auth=SecretRef(env="A2A_TOKEN"))
        assert rig.fake.requests[0]["headers"]["Authorization"] == "Bearer s3cret"
        assert thief.fake.requests == []


async def test_health_is_a_card_we_can_use() -> None:
    """503 and nobody there are not."""
    async with rigged() as rig:
        assert await is_well(rig.transport, rig.agent, 5.0)
        rig.fake.healthy = False
        assert not await is_well(rig.transport, rig.agent, 5.0)
    transport = A2aTransport()
    assert not await is_well(transport, rig.agent, 1.0)
    await transport.close()


async def test_hang_while_sending_closes_the_connection() -> None:
    """There is no task to cancel yet."""
    async with rigged("1.0", hang()) as rig:
        await rig.transport.check_health(rig.agent, 5.0)
        with pytest.raises(CallTimeout):
            await rig.call(timeout_s=0.3)
        await until(lambda: bool(rig.fake.calls) and rig.fake.calls[0].ended == "closed")
        assert rig.fake.cancelled == []


async def test_words_of_the_payload_go_first_as_text() -> None:
    """Agents that read text only still see the task; `textOnly` sends nothing else."""
    async with rigged() as rig:
        body = orjson.dumps({"task": "add", "data": [1]})
        await rig.call(body=body)
        await rig.call(body=body, metadata={"textOnly": True})
        first, second = (request["params"]["message"]["parts"] for request in rig.fake.requests)
        assert first == [{"text": "add"}, {"data": {"task": "add", "data": [1]}}]
        assert second == [{"text": "add\n\nData:\n[1]"}]
