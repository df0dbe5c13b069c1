"""`streams.testing.VirtualTime`: the worker's own guards in memory, hours in no time, the same each time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from agents_io import Answer, Declined, agent, current_call
from agents_io.fakes.steps import answer
from schemas.times import parse_time
from streams import AgentRejected, NoAgent, TaskExpired, WaitTimeout
from streams.client.result import TaskResult
from streams.testing import FakeAgent, VirtualTime, garbage, hang, raw, reset, status
from streams.testing.virtual_loop import RealTimeNeeded


class Order(BaseModel):
    text: str


@agent("shouter", capabilities=["shout"])
async def shout(order: Order) -> Answer:
    """Takes an hour."""
    await asyncio.sleep(3600)
    if order.text == "no":
        raise Declined("not that")
    return Answer(order.text.upper(), 0.7, extra={"words": 1})


@agent("plain")
def plain(payload: Any) -> tuple[Any, float]:
    return payload, 0.5


def test_a_day_of_timeouts_passes_at_once() -> None:
    """Each attempt has its own time, and the agent was called as often as it may be."""
    with VirtualTime(agents=[FakeAgent(hang(), id="slow")]) as v:
        outcome = v.submit("slow", {}, timeout="7h", retries=2).outcome()
        assert (outcome.status, outcome.error and outcome.error.code, outcome.retries) == ("timeout", "timeout", 2)
        assert 21 * 3600 < v.elapsed < 22 * 3600
        assert [call.attempt for call in v.calls] == [1, 2, 3]
        assert outcome.timestamp == parse_time("2026-01-01T00:00:00Z") + round(v.elapsed * 1000)


def test_the_rate_limit_paces_as_in_production() -> None:
    """100 calls a minute: the last of 250 begins in the third minute, and in no minute begin more."""
    with VirtualTime(agents=[FakeAgent("ok", id="a")]) as v:
        sent = [v.submit("a", {"n": n}) for n in range(250)]
        assert all(one.result().ok for one in sent)
        times = sorted(call.at for call in v.calls)
        assert len(times) == 250
        assert 120 <= times[-1] < 180
        assert all(times[n + 100] - times[n] >= 60 for n in range(150))


def test_a_circuit_opens_and_closes() -> None:
    """Five failures open it; the task that waits behind it is answered once the agent is well, at no cost of an attempt."""
    script = [status(500, times=5), "well"]
    with VirtualTime(agents=[FakeAgent(script, id="a")]) as v:
        for n in range(5):
            v.submit("a", {"n": n}, retries=0).outcome()
        assert [event["type"] for event in v.events].count("circuit:open") == 1
        before = v.elapsed
        result = v.run("a", {"n": 9}, retries=0)
        assert (result.value, result.retries) == ("well", 0)
        assert v.elapsed - before >= 25


def test_a_task_behind_a_busy_agent_expires() -> None:
    """At its deadline, and without a call."""
    with VirtualTime(agents=[FakeAgent(hang(), id="b", limits={"maxConcurrency": 1})]) as v:
        v.submit("b", {"n": 1}, timeout="2h")
        with pytest.raises(TaskExpired):
            v.run("b", {"n": 2}, expires_in="1h")
        assert v.elapsed == pytest.approx(3600)
        assert len(v.calls) == 1


def test_what_an_answer_means_is_in_the_registration() -> None:
    metadata = {"valuePath": "label", "confidencePath": "score"}
    fake = FakeAgent(raw(b'{"label":"spam","score":0.6}'), id="a", metadata=metadata)
    with VirtualTime(agents=[fake]) as v:
        result = v.run("a", "x")
        assert (result.value, result.confidence) == ("spam", 0.6)


def test_a_functions_own_failures_are_those_of_http() -> None:
    """An exception is a 500, its own time-out too, and each is tried again."""

    @agent("broken")
    async def broken(payload: Any) -> str:
        raise TimeoutError("the database") if payload else ValueError("bad")

    with VirtualTime(agents=[broken]) as v:
        for payload, reason in ((1, "TimeoutError: the database"), (0, "ValueError: bad")):
            outcome = v.submit("broken", payload, retries=1).outcome()
            assert outcome.error is not None
            assert (outcome.error.code, reason in outcome.error.message) == ("http_5xx", True)
        assert len(v.calls) == 4


def test_retries_wait_as_long_as_the_settings_say() -> None:
    settings = {"retry.jitter": False, "retry.initial_delay": "1m", "retry.max_delay": "1h"}
    with VirtualTime(agents=[FakeAgent([reset(times=1), garbage(times=1), "ok"], id="a")], settings=settings) as v:
        assert v.run("a", {}).value == "ok"
        assert [round(call.at) for call in v.calls] == [0, 60, 180]


def test_retry_after_is_obeyed() -> None:
    with VirtualTime(agents=[FakeAgent([status(503, retry_after="200", times=1), "ok"], id="a")]) as v:
        assert v.run("a", {}).value == "ok"
        assert v.calls[1].at - v.calls[0].at >= 200


def test_functions_marked_with_agent_are_called() -> None:
    """By capability, with their validation, and with time of their own."""
    with VirtualTime(agents=[shout, plain]) as v:
        result = v.run(None, {"text": "hey"}, capabilities=["shout"], timeout="2h")
        assert (result.value, result.confidence, result.agent_id) == ("HEY", 0.7, "shouter")
        assert result.metadata["answer"] == {"words": 1}
        assert v.elapsed >= 3600
        assert v.run("plain", [1]).value == [1]
        with pytest.raises(AgentRejected, match="text"):
            v.run("shouter", {}, timeout="2h")
        with pytest.raises(AgentRejected, match="not that"):
            v.run("shouter", {"text": "no"}, timeout="2h")


def test_a_task_is_cancelled_and_an_agent_comes_and_goes() -> None:
    with VirtualTime(agents=[FakeAgent(hang(), id="a")]) as v:
        sent = v.submit("a", {}, timeout="9h")
        v.advance("1h")
        assert not sent.done
        v.cancel(sent.id)
        assert sent.outcome().status == "cancelled"
        assert v.elapsed == pytest.approx(3600)
        v.remove("a")
        with pytest.raises(NoAgent):
            v.run("a", {})
        v.add(FakeAgent("back", id="a"))
        assert v.run("a", {}).value == "back"
        with pytest.raises(KeyError, match="nobody"):
            v.remove("nobody")


def test_the_same_seed_is_the_same_story() -> None:
    def story(seed: int) -> list[tuple[str, float]]:
        with VirtualTime(agents=[FakeAgent([status(500, times=2), "ok"], id="a")], seed=seed) as v:
            v.run("a", {})
            return [(call.task_id, call.at) for call in v.calls]

    assert story(1) == story(1) != story(2)


def test_waiting_has_an_end_and_misuse_a_reason() -> None:
    with VirtualTime(agents=[FakeAgent(hang(), id="a")]) as v:
        with pytest.raises(WaitTimeout, match="no result after 60 s"):
            v.submit("a", {}, timeout="1h").outcome(wait="1m")
        with pytest.raises(TypeError, match="@agent"):
            v.add(lambda payload: payload)
    with pytest.raises(RuntimeError, match="with VirtualTime"):
        v.submit("a", {})


def test_a_conversation_is_answered_one_message_at_a_time() -> None:
    """Another one runs beside it."""
    with VirtualTime(agents=[FakeAgent(answer(delay_s=25), id="bot")]) as v:
        sent = [v.submit("bot", {"n": n}, ordering_key=f"chat-{n % 2}", cache=False) for n in range(6)]
        assert all(one.result().ok for one in sent)
        times = {call.payload["n"]: call.at for call in v.calls}
        for n in range(4):
            assert times[n + 2] - times[n] >= 25
        assert abs(times[0] - times[1]) < 1


@pytest.mark.parametrize("bad_ones", [6, 20])
def test_tasks_that_an_agent_always_fails_on_keep_its_circuit_open_for_no_other(bad_ones: int) -> None:
    """A failed probe uses up no attempt, so tasks that fail for their payload's sake go on: others must probe in between."""

    @agent("picky")
    def picky(payload: Any) -> Any:
        return payload["text"]

    with VirtualTime(agents=[picky]) as v:
        for _ in range(bad_ones):
            v.submit("picky", {}, cache=False)
        v.advance("5s")
        well = [v.submit("picky", {"text": number}, cache=False) for number in range(30)]
        v.advance("30m")
        assert [one.done for one in well] == [True] * 30


@pytest.mark.parametrize("raised", [SystemExit(1), StopIteration(), asyncio.CancelledError()], ids=repr)
def test_whatever_a_function_raises_fails_the_call_as_over_http(raised: BaseException) -> None:
    @agent("raiser")
    def raiser(payload: Any) -> Any:
        raise raised

    with VirtualTime(agents=[raiser]) as v:
        outcome = v.submit("raiser", {}, retries=0).outcome()
        assert outcome.error is not None
        assert (outcome.error.code, type(raised).__name__ in outcome.error.message) == ("http_5xx", True)


def test_what_takes_real_time_fails_the_call_and_the_test() -> None:
    """Before, time jumped past it, and the attempt timed out."""

    @agent("threaded")
    async def threaded(payload: Any) -> int:
        return await asyncio.to_thread(len, "x")

    outcomes: list[TaskResult[Any]] = []

    def scenario() -> None:
        with VirtualTime(agents=[threaded]) as v:
            outcomes.append(v.submit("threaded", {}, retries=0).outcome())

    with pytest.raises(RealTimeNeeded, match="refused while the loop ran: a thread"):
        scenario()
    [outcome] = outcomes
    assert outcome.error is not None
    assert "a thread (run_in_executor) takes real time" in outcome.error.message


def test_a_function_sees_the_conversation_of_its_call() -> None:
    @agent("listener")
    def listener(payload: Any) -> str:
        return current_call().context_id

    with VirtualTime(agents=[listener]) as v:
        assert v.run("listener", {}, context_id="c1").value == "c1"


def test_steps_of_a_script_come_in_turn() -> None:
    with VirtualTime(agents=[FakeAgent(["first", status(503), "last"], id="steps")]) as v:
        found = [v.run("steps", {"n": n}) for n in range(3)]
        assert [(one.value, one.retries) for one in found] == [("first", 0), ("last", 1), ("last", 0)]
    with pytest.raises(ValueError, match="script: needs at least one step"):
        FakeAgent([])


async def test_a_coroutine_is_told_that_virtual_time_needs_a_plain_function() -> None:
    with pytest.raises(RuntimeError, match="must be a plain function, not a coroutine"), VirtualTime():
        pass
