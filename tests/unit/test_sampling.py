"""A task asked several times: every call takes its turn of the limits, and the task ends once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.errors import AgentError, CallTimeout, Cancelled, ClientError, Expired, ServerError
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.caller_rig import CallerRig, CallsOnly, End
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


class Samples(CallsOnly):
    """Each call waits for its turn to be answered; `ends`: how, by the number of the call."""

    def __init__(self, ends: Callable[[int], End | None]) -> None:
        self.ends = ends
        self.calls: list[Call] = []
        self.running = self.most = self.cut_off = 0

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """None: no answer in time."""
        self.calls.append(call)
        number = len(self.calls)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            end = self.ends(number)
            if end is None:
                await asyncio.sleep(call.timeout_s)
                end = CallTimeout("no answer")
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.running -= 1
        if isinstance(end, AgentError):
            raise end
        return end


class Rig(CallerRig[Samples]):
    """An agent whose confidence comes from agreement."""

    def __init__(self, ends: Callable[[int], End | None], *, samples: int = 5, **guards: Any) -> None:
        agent = AgentRegistration.model_validate(
            {"id": "a", "endpoint": "http://a", "confidence": {"from": "agreement", "samples": samples}}
        )
        super().__init__(Samples(ends), agent=agent, **guards)

    async def ended(self, count: int = 1) -> list[End]:
        """So many ends, and nothing left behind."""
        await super().ended(count)
        await until(lambda: not self.caller.running)
        assert (self.queue.waiting, self.queue.in_flight, self.transport.running) == (0, 0, 0)
        assert len(self.ends) == count
        return self.ends


def yes(number: int) -> End | None:
    """All agree."""
    return Answer("yes", 0.0)


async def test_asked_until_enough_agree_and_the_losers_are_cut_off() -> None:
    """The fourth and the fifth never answer: they are cut off at the agent, and count against nothing."""
    rig = Rig(lambda number: Answer("yes", 0.0) if number <= 3 else None)
    run = rig.submit()
    [end] = await rig.ended()
    assert end == Answer("yes", 0.8, {"agreement": {"samples": 3, "agree": 3}})
    assert (len(rig.transport.calls), rig.transport.cut_off, rig.begun, run.calls) == (5, 2, 1, 1)
    now = asyncio.get_running_loop().time()
    assert rig.breaker.failures(now) == 0
    assert rig.queue.limiter.used(now) == 5  # those that were cut off had begun
    assert rig.stats.confidence.value == 0.8


async def test_each_sample_has_a_key_of_its_own() -> None:
    """An agent that keeps answers by their key would agree with itself."""
    rig = Rig(yes)
    rig.submit("t1")
    await rig.ended()
    assert sorted(call.idempotency_key for call in rig.transport.calls) == [f"t1/sample/{n}" for n in range(1, 6)]
    assert [call.attempt for call in rig.transport.calls] == [1] * 5


async def test_every_sample_takes_its_turn_of_the_rate_limit() -> None:
    """Two calls in a window: the third sample waits for the next one. What was not begun took no turn."""
    rig = Rig(yes, samples=4, limiter=SlidingWindow(2, 0.2))
    begun = asyncio.get_running_loop().time()
    rig.submit()
    await rig.ended()
    assert asyncio.get_running_loop().time() - begun >= 0.2
    assert rig.queue.limiter.used(rig.now) <= 2


async def test_samples_are_called_no_more_at_once_than_allowed_and_before_later_tasks() -> None:
    """One slot: the samples of a task follow each other; the second task begins after the first has its answer."""
    rig = Rig(yes, samples=3, concurrency=1)
    rig.submit("t1")
    rig.submit("t2")
    await rig.ended(2)
    assert rig.transport.most == 1
    assert [call.task_id.split("/")[0] for call in rig.transport.calls] == ["t1", "t1", "t2", "t2"]


async def test_retries_of_a_task_are_shared_by_its_samples() -> None:
    """Two retries for all: the first two failures are asked again, the third sample to fail is lost, and three still answer."""
    rig = Rig(lambda number: ServerError("no") if number <= 3 else Answer("yes", 0.0))
    run = rig.submit(max_retries=2)
    [end] = await rig.ended()
    assert isinstance(end, Answer)
    assert len(rig.retries) == 2
    assert len(rig.transport.calls) <= 7
    assert run.calls == 3


async def test_an_agent_that_fails_fails_the_task_once() -> None:
    """Without retries three lost samples of five end it; every call counted."""
    rig = Rig(lambda number: ServerError("no"))
    rig.submit()
    [end] = await rig.ended()
    assert isinstance(end, ServerError)
    assert rig.failures >= 3


async def test_a_wrong_task_is_not_asked_again() -> None:
    """400: the samples that wait are dropped."""
    rig = Rig(lambda number: ClientError("400"), concurrency=1)
    rig.submit(max_retries=2)
    [end] = await rig.ended()
    assert isinstance(end, ClientError)
    assert len(rig.transport.calls) == 1


async def test_cancelled_with_samples_waiting_and_under_way() -> None:
    """One end; all calls are cut off."""
    rig = Rig(lambda number: None, concurrency=2)
    run = rig.submit()
    await until(lambda: rig.transport.running == 2)
    assert rig.caller.waits_for(run, rig.now) == "calling"
    rig.caller.cancel(run)
    [end] = await rig.ended()
    assert isinstance(end, Cancelled)
    assert rig.transport.cut_off == 2


async def test_cancelled_in_the_moment_it_begins() -> None:
    """No call has taken its first step yet."""
    rig = Rig(yes)
    rig.caller.cancel(rig.submit())
    [end] = await rig.ended()
    assert isinstance(end, Cancelled)


async def test_at_its_deadline_a_task_has_the_answer_of_most_samples_or_none() -> None:
    """Three answered and two hang: the three decide. With two it is expired, and that counts against nothing."""
    for answered, kind in ((3, Answer), (2, Expired)):
        values = iter("abc")
        rig = Rig(lambda number, n=answered, v=values: Answer(next(v), 0.0) if number <= n else None)  # type: ignore[misc]
        rig.submit(expires_s=0.1)
        [end] = await rig.ended()
        assert isinstance(end, kind)
        assert rig.failures == 0


async def test_a_task_that_waits_for_its_first_turn_is_one_item() -> None:
    """It can go elsewhere as a whole; one with samples under way cannot."""
    rig = Rig(lambda number: None, concurrency=1)
    first, second = rig.submit("t1"), rig.submit("t2")
    await until(lambda: rig.transport.running == 1)
    assert rig.queue.waiting == 5
    assert rig.caller.waiting() == [second]
    assert rig.caller.last(lambda run: True) is second
    rig.caller.cancel(first)
    rig.caller.cancel(second)
    await rig.ended(2)


async def test_closed_with_samples_under_way_nothing_is_reported() -> None:
    """The next owner of the partition asks anew."""
    rig = Rig(lambda number: None, concurrency=2)
    rig.submit()
    await until(lambda: rig.transport.running == 2)
    rig.caller.close()
    await until(lambda: not rig.caller.running)
    assert (rig.ends, rig.queue.waiting, rig.transport.cut_off) == ([], 0, 2)
