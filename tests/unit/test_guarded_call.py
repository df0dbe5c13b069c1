"""The layers of a guarded call, in their order, and what each end of a call means to each of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agents_io import errors
from agents_io.calling.call_stats import CallStats
from agents_io.calling.pending_call import PendingCall
from agents_io.calling.rules.breaker import Breaker, BreakerConfig
from agents_io.calling.rules.budget import BudgetConfig
from agents_io.calling.rules.health import Ejection, EjectionConfig
from agents_io.calling.rules.retry import RetryConfig
from agents_io.errors import AgentError, ServerError
from agents_io.rules import statuses
from agents_io.rules.statuses import StillRunning
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.caller_rig import CallerRig, CallsOnly, End
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


class Ending(CallsOnly):
    """Every call ends so, at once."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.calls: list[Call] = []

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """As told."""
        self.calls.append(call)
        await asyncio.sleep(0)
        if isinstance(self.end, AgentError):
            raise self.end
        return self.end


class Rig(CallerRig[Ending]):
    """Every call ends so; a task is tried again so often."""

    def __init__(self, end: End, retries: int = 0, delay_s: float = 0.001, **guards: Any) -> None:
        retry = RetryConfig(initial_delay_s=delay_s, max_delay_s=delay_s, jitter=False)
        stats = CallStats(Ejection(EjectionConfig(after=1)))
        super().__init__(
            Ending(end), **{"breaker": BreakerConfig(failure_threshold=100)} | guards, retry=retry, stats=stats
        )
        self.max_retries = retries

    def submit(self, task_id: str = "t", **fields: Any) -> PendingCall:
        """One task."""
        return super().submit(task_id, **{"max_retries": self.max_retries} | fields)

    async def end(self, count: int = 1) -> End:
        """The last of so many ends."""
        return (await self.ended(count))[-1]


TABLE: dict[type[AgentError], tuple[bool, bool]] = {
    # error: (tried again, fails the circuit and the agent's health)
    errors.CallTimeout: (True, True),
    errors.ConnectionFailed: (True, True),
    errors.ConnectionWasClosing: (True, False),
    errors.ServerError: (True, True),
    errors.ClientError: (False, False),
    StillRunning: (True, False),
    errors.RateLimited: (True, False),
    errors.BadResponse: (True, True),
    errors.AnswerTooLarge: (False, True),
    errors.Cancelled: (False, False),
    errors.Refused: (False, False),
    errors.Unsupported: (False, False),
    errors.ForbiddenTarget: (False, False),
    errors.UnknownFunction: (False, False),
    errors.ExecutionFailed: (True, True),
    errors.InternalError: (True, False),
}
NO_CALL = {AgentError, errors.NoAgent, errors.Expired}


def test_the_table_is_whole() -> None:
    """An error that is added must be placed here."""
    every = {
        kind
        for module in (errors, statuses)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, AgentError)
    }
    assert every == set(TABLE) | NO_CALL, "say what counts for a new error"


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
async def test_what_counts(kind: type[AgentError]) -> None:
    """Every failure by its kind: whether it is tried again, and whether it counts against the agent."""
    again, blamed = TABLE[kind]
    rig = Rig(kind("why"), retries=1)
    rig.submit()
    await rig.end()
    assert len(rig.transport.calls) == (2 if again else 1)
    assert rig.failures == (len(rig.transport.calls) if blamed else 0)
    assert rig.stats.ejection.out(rig.now) is blamed
    assert rig.limiter.used(rig.now) == len(rig.transport.calls), "every call begun counts for the rate limit"


async def test_a_wish_to_be_left_alone_pauses_the_limit_and_uses_up_no_attempt() -> None:
    """429 and 503 with Retry-After: 503 counts as a failure too. The task waits for its turn."""
    for kind, failures in ((errors.RateLimited, 0), (errors.ServerError, 1)):
        rig = Rig(kind("later", retry_after_s=20.0))
        run = rig.submit()
        await until(lambda rig=rig: len(rig.retries) == 1)  # type: ignore[misc]
        assert 19 < rig.limiter.paused_until - rig.now <= 20
        assert rig.failures == failures
        assert (run.attempts, rig.ends, rig.queue.holds(run)) == (0, [], True)
        rig.caller.close()


async def test_an_open_circuit_costs_no_turn_and_no_attempt() -> None:
    """What waits for it keeps its attempts, and the window stays as it was; it is answered once the circuit lets it."""
    rig = Rig(Answer("ok", 0.9))
    rig.breaker.reconfigure(BreakerConfig(mode="open"))
    run = rig.submit(expires_s=60.0)
    await asyncio.sleep(0.02)
    assert (rig.ends, run.attempts, rig.limiter.used(rig.now), rig.begun) == ([], 0, 0, 0)
    rig.breaker.reconfigure(BreakerConfig())
    rig.caller.advance()
    assert isinstance(await rig.end(), Answer)


async def test_a_full_window_takes_no_permit() -> None:
    """A probe's place is not held by a call that may not begin."""
    rig = Rig(Answer("ok", 0.9))
    breaker = Breaker(BreakerConfig(failure_threshold=1, reset_timeout_s=0.001, probes=1))
    rig.queue.breaker = breaker
    permit = breaker.try_acquire(rig.now)
    assert permit is not None
    breaker.record(permit, "failure", rig.now)
    await asyncio.sleep(0.01)
    for _ in range(100):
        rig.limiter.try_acquire(rig.now)
    run = rig.submit(expires_s=90.0)
    await asyncio.sleep(0.01)
    assert rig.queue.holds(run)
    assert breaker.try_acquire(rig.now) is not None, "the one probe is still to be had"


async def test_concurrency_comes_before_all() -> None:
    """A task without a place takes neither a turn nor a permit."""
    rig = Rig(Answer("ok", 0.9))
    rig.queue.reconfigure(max_concurrency=1)
    for _ in range(5):
        rig.submit()
    assert (rig.queue.in_flight, rig.limiter.used(rig.now)) == (1, 1)
    await rig.end(5)


async def test_an_attempt_is_bounded_by_its_timeout_and_by_the_deadline_of_all() -> None:
    """The time of a call is the shorter of what one attempt may take and what the task has left."""
    rig = Rig(Answer("ok", 0.9))
    rig.submit(timeout_s=5.0)
    rig.submit(timeout_s=5.0, expires_s=2.0)
    rig.submit(timeout_s=90.0, expires_s=600.0)
    await rig.end(3)
    assert [round(call.timeout_s) for call in rig.transport.calls] == [5, 2, 90]


async def test_retries_wait_for_the_budget() -> None:
    """Ten tasks fail: one first attempt each, and as many second ones at once as share and floor allow. The rest waits."""
    rig = Rig(ServerError("500"), retries=1, budget=BudgetConfig(share=0.2, floor=3))
    for _ in range(10):
        rig.submit()
    await until(lambda: len(rig.retries) == 10)
    await until(lambda: len(rig.transport.calls) == 15)
    await asyncio.sleep(0.05)
    assert (rig.begun, len(rig.transport.calls), rig.queue.waiting) == (10, 15, 5)
    assert {end.code for end in rig.ends if isinstance(end, AgentError)} == {"http_5xx"}
    assert len(rig.ends) == 5
    rig.transport.end = Answer("ok", 0.9)
    for _ in range(25):  # the load of the well gives them back
        rig.submit()
    await rig.end(35)
    assert sum(isinstance(end, Answer) for end in rig.ends) == 30


async def test_a_retry_that_waits_for_the_budget_expires_at_the_deadline_of_its_task() -> None:
    """It says how its last attempt failed."""
    rig = Rig(ServerError("500"), retries=1, budget=BudgetConfig(share=0.0, floor=0))
    rig.submit(expires_s=0.3)
    end = await rig.end()
    assert isinstance(end, errors.Expired)
    assert "500" in end.message
    assert len(rig.transport.calls) == 1


async def test_a_retry_behind_an_open_circuit_needs_no_budget() -> None:
    """Ten tasks fail together and the circuit opens at the third: all wait for it, and are answered."""
    opens = BreakerConfig(failure_threshold=3, reset_timeout_s=0.2)
    rig = Rig(ServerError("500"), retries=2, budget=BudgetConfig(share=0.0, floor=0), breaker=opens)
    for _ in range(10):
        rig.submit()
    await until(lambda: len(rig.retries) == 10)
    rig.transport.end = Answer("ok", 0.9)
    await rig.end(10)
    assert all(isinstance(end, Answer) for end in rig.ends)


async def test_answers_are_what_is_known_of_an_agent() -> None:
    """Times and confidence of answers; a failure of its own counts as no confidence at all."""
    rig = Rig(Answer("ok", 0.75))
    rig.submit()
    await rig.end()
    assert rig.stats.confidence.value == 0.75
    assert rig.stats.latency.mean.value is not None
    rig.transport.end = ServerError("500")
    rig.submit()
    await rig.end(2)
    assert rig.stats.confidence.value == pytest.approx(0.6)


async def test_a_call_on_a_connection_that_was_closing_is_made_again_at_once_on_a_new_one() -> None:
    """It counts as a call: the agent may have seen it. It waits for no backoff, and draws on no budget."""
    rig = Rig(
        errors.ConnectionWasClosing("closing"), retries=2, budget=BudgetConfig(share=0.0, floor=0), delay_s=3600.0
    )
    rig.submit(expires_s=60.0)
    assert isinstance(await rig.end(), errors.ConnectionWasClosing)
    assert [call.fresh for call in rig.transport.calls] == [False, True, True]
    assert (rig.limiter.used(rig.now), rig.failures) == (3, 0)


async def test_once_a_connection_was_lost_all_further_calls_of_the_task_use_new_ones() -> None:
    """Else its last call could end on one that was closing: a failure that counts for nothing, after others that did."""
    rig = Rig(errors.ServerError("500"), retries=3)
    later = iter((errors.ConnectionWasClosing("closing"), errors.ServerError("500"), errors.ServerError("500")))

    def another(run: PendingCall, delay_s: float) -> None:
        rig.transport.end = next(later)

    rig.on_retry = another  # type: ignore[method-assign]
    rig.submit()
    await rig.end()
    assert [call.fresh for call in rig.transport.calls] == [False, False, True, True]
