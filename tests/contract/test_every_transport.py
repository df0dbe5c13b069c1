"""One contract for every transport: what a call must give, whatever the agent does."""

from __future__ import annotations

import asyncio
import time

import pytest

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    Expired,
    RateLimited,
    ServerError,
)
from agents_io.fakes.steps import (
    ScriptStep,
    answer,
    compute,
    deep,
    drip,
    empty,
    garbage,
    hang,
    huge,
    nan,
    raw,
    reset,
    status,
)
from tests.support.protocols import CAP
from tests.support.transport_makers import CANNOT_SAY, MAKERS, Maker, over_kafka
from tests.support.transport_makers import make as make
from tests.support.wait import until


async def test_answers_with_value_and_confidence(make: Maker) -> None:
    """The payload arrives and the answer comes back."""
    async with make(compute(lambda payload: {"value": payload["n"] + 1, "confidence": 0.25})) as rig:
        found = await rig.call(body=b'{"n": 41}')
        assert (found.value, found.confidence) == (42, 0.25)


async def test_agents_are_called_directly_whatever_proxy_the_environment_names(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a machine with `HTTP_PROXY` sends neither tasks nor tokens there."""
    async with make(answer()) as rig:  # an agent that dials in has connected by then: that is its own matter
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY"):
            for spelled in (name, name.lower()):
                monkeypatch.setenv(spelled, "http://127.0.0.1:9")  # nobody listens there
        assert (await rig.call()).value == "ok"


async def test_carries_the_idempotency_key(make: Maker) -> None:
    """The same for each attempt of a task."""
    async with make(status(500, times=1), answer()) as rig:
        with pytest.raises(ServerError):
            await rig.call("task-7")
        await rig.call("task-7")
        assert rig.fake.keys == {"task-7": 2}


BAD: list[tuple[ScriptStep, type[AgentError]]] = [
    (status(500), ServerError),
    (status(400), ClientError),
    (status(429), RateLimited),
    (status(401), ClientError),
    (reset(), ConnectionFailed),
    (reset(after_bytes=100), ConnectionFailed),
    (nan(), BadResponse),
    (empty(), BadResponse),
    (garbage(), BadResponse),
    (deep(), BadResponse),
    (answer(confidence=1.01), BadResponse),
    (answer(confidence=-0.01), BadResponse),
    (answer(confidence=True), BadResponse),
    (answer(confidence="0.5"), BadResponse),
    (answer(confidence=None), BadResponse),
    (raw(b'{"value":1,"confidence":1e999}'), BadResponse),
    (huge(), AnswerTooLarge),
    (raw(b'{"confidence":1,"value":"' + b"x" * CAP + b'"}'), AnswerTooLarge),
]


@pytest.mark.parametrize(
    ("make", "step", "error"),
    [
        pytest.param(make, *bad, marks=[pytest.mark.embedded] if make is over_kafka else [])
        for make in (*MAKERS, over_kafka)
        for bad in BAD
        if make not in CANNOT_SAY or not CANNOT_SAY[make](bad[0])
    ],
    ids=lambda value: getattr(value, "kind", None) or getattr(value, "__name__", None),
)
async def test_one_bad_answer_is_one_clear_error(make: Maker, step: ScriptStep, error: type[AgentError]) -> None:
    """Of the right kind, in a short sentence, and the next call is not touched by it."""
    times_once = ScriptStep(**{name: getattr(step, name) for name in ScriptStep.__slots__} | {"times": 1})
    async with make(times_once, answer()) as rig:
        with pytest.raises(error) as caught:
            await rig.call()
        assert type(caught.value) is error
        assert 10 < len(caught.value.message) < 200
        assert caught.value.message.isprintable()
        assert (await rig.call("t2")).value == "ok"


@pytest.mark.parametrize("step", [hang(), drip()], ids=["hang", "drip"])
async def test_timeout_covers_the_whole_attempt(make: Maker, step: ScriptStep) -> None:
    """Also when a byte comes now and then; the agent sees its connection close."""
    async with make(step) as rig:
        with pytest.raises(CallTimeout, match=r"no answer within 0\.2 s"):
            await rig.call(timeout_s=0.2)
        await until(lambda: rig.fake.calls[0].ended == "closed")


@pytest.mark.parametrize(
    ("step", "after_s"), [(hang(times=1), 0.0), (drip(times=1), 0.15)], ids=["before the answer", "within its body"]
)
async def test_cancelling_reaches_the_agent_at_once(make: Maker, step: ScriptStep, after_s: float) -> None:
    """The agent stops working for nobody: it sees the connection close, not a timeout. The next call is not touched by it."""
    async with make(step, answer()) as rig:
        task = asyncio.create_task(rig.call(timeout_s=60.0))
        await until(lambda: rig.fake.in_flight == 1)
        await asyncio.sleep(after_s)
        cancelled_at = time.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: rig.fake.calls[0].ended == "closed", 5.0)
        assert rig.fake.calls[0].ended_at - cancelled_at < 5.0
        assert (await rig.call("t2")).value == "ok"


async def test_no_time_left_makes_no_call(make: Maker) -> None:
    """And it is not the agent's fault."""
    async with make(answer()) as rig:
        with pytest.raises(Expired):
            await rig.call(timeout_s=0.0)
        assert len(rig.fake.calls) == 0


async def test_many_calls_at_once_each_get_their_own_answer(make: Maker) -> None:
    """Fifty in flight on one transport."""
    async with make(compute(lambda payload: {"value": payload, "confidence": 1}, delay_s=0.05)) as rig:
        answers = await asyncio.gather(*(rig.call(f"t{n}", body=b"%d" % n) for n in range(50)))
        assert [found.value for found in answers] == list(range(50))
        assert rig.fake.most_in_flight > 1
