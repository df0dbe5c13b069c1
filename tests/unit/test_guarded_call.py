"""The layers of a guarded call, in their order, and what each end of a call means to each of them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from agents_io import errors
from agents_io.caller import Caller
from agents_io.errors import AgentError, ServerError
from agents_io.rules.breaker import Breaker, BreakerConfig
from agents_io.rules.budget import BudgetConfig, RetryBudget
from agents_io.rules.health import Ejection, EjectionConfig
from agents_io.rules.agent_queue import AgentQueue
from agents_io.rules.limiter import SlidingWindow
from agents_io.rules.retry import RetryConfig
from agents_io.pending_call import PendingCall
from agents_io.call_stats import CallStats
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.homes import until


class Ending:
    """Every call ends so, at once."""

    def __init__(self, end: Answer | AgentError) -> None:
        self.end = end
        self.calls: list[Call] = []

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """As told."""
        self.calls.append(call)
        await asyncio.sleep(0)
        if isinstance(self.end, AgentError):
            raise self.end
        return self.end

    async def health(self, agent: AgentRegistration, timeout_s: float) -> bool:
        """Not asked."""
        return True

    async def close(self) -> None:
        """Nothing to release."""


class Rig:
    """One caller with every guard in sight, and the hooks it tells."""

    def __init__(
        self,
        end: Answer | AgentError,
        retries: int = 0,
        budget: BudgetConfig | None = None,
        breaker: BreakerConfig | None = None,
    ) -> None:
        self.transport = Ending(end)
        self.breaker = Breaker(breaker or BreakerConfig(failure_threshold=100))
        self.limiter = SlidingWindow(100, 60.0)
        self.queue: AgentQueue[PendingCall] = AgentQueue(10, self.limiter, self.breaker, depth=1000)
        self.track = CallStats(RetryBudget(budget), Ejection(EjectionConfig(after=1)))
        self.ends: list[Answer | AgentError] = []
        self.begun = self.retried = 0
        self.retries = retries
        agent = AgentRegistration(id="a", endpoint="http://a")
        retry = RetryConfig(max_retries=retries, initial_delay_s=0.001, jitter=False)
        self.caller = Caller(agent, self.queue, self.transport, retry, self, random.Random(1), 5.0, self.track)

    @property
    def now(self) -> float:
        """Loop time."""
        return asyncio.get_running_loop().time()

    def submit(self, deadline_s: float = 30.0) -> PendingCall:
        """One task."""
        ticket = PendingCall("t", "t", b"{}", self.now, self.now + deadline_s, 0, self.retries, None)
        self.caller.submit(ticket)
        return ticket

    async def end(self, count: int = 1) -> Answer | AgentError:
        """The last of so many ends."""
        await until(lambda: len(self.ends) >= count, 20)
        return self.ends[-1]

    def started(self, ticket: PendingCall) -> None:
        """A first call."""
        self.begun += 1

    def retrying(self, ticket: PendingCall, delay_s: float) -> None:
        """Another one follows."""
        self.retried += 1

    def finished(self, ticket: PendingCall, answer: Answer | AgentError) -> None:
        """The end."""
        self.ends.append(answer)

    def circuit(self, agent_id: str, transition: Any) -> None:
        """Not looked at."""


TABLE = {
    # error: (tried again, fails the circuit and the agent's health)
    "CallTimeout": (True, True),
    "RushedTimeout": (True, False),
    "ConnectionFailed": (True, True),
    "ServerError": (True, True),
    "ClientError": (False, False),
    "RateLimited": (True, False),
    "BadResponse": (True, True),
    "AnswerTooLarge": (False, True),
    "Cancelled": (False, False),
    "Refused": (False, False),
    "Unsupported": (False, False),
    "ForbiddenTarget": (False, False),
    "UnknownFunction": (False, False),
    "ExecutionFailed": (True, True),
    "InternalError": (True, False),
}
NO_CALL = {"AgentError", "CircuitOpen", "NoAgent", "Expired"}


def test_the_table_is_whole() -> None:
    """An error that is added must be placed here."""
    every = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AgentError)}
    assert every == set(TABLE) | NO_CALL, "say what counts for a new error"


@pytest.mark.parametrize("name", TABLE)
async def test_what_counts(name: str) -> None:
    """Every failure by its kind: whether it is tried again, and whether it counts against the agent."""
    again, blamed = TABLE[name]
    rig = Rig(getattr(errors, name)("why"), retries=1)
    rig.submit()
    await rig.end()
    assert len(rig.transport.calls) == (2 if again else 1)
    assert rig.breaker.failures(rig.now) == (len(rig.transport.calls) if blamed else 0)
    assert rig.track.ejection.out(rig.now) is blamed
    assert rig.limiter.used(rig.now) == len(rig.transport.calls), "every call begun counts for the rate limit"


async def test_a_wish_to_be_left_alone_pauses_the_limit_and_nothing_else() -> None:
    """429 and 503 with Retry-After: 503 counts as a failure too."""
    for kind, failures in ((errors.RateLimited, 0), (errors.ServerError, 1)):
        rig = Rig(kind("later", retry_after_s=20.0))
        rig.submit()
        await rig.end()
        assert 19 < rig.limiter.paused_until - rig.now <= 20
        assert rig.breaker.failures(rig.now) == failures


async def test_an_open_circuit_costs_no_turn_and_no_try() -> None:
    """What waits for it keeps its tries, and the window stays as it was."""
    rig = Rig(Answer("ok", 0.9))
    rig.breaker.reconfigure(BreakerConfig(mode="open"))
    ticket = rig.submit()
    end = await rig.end()
    assert isinstance(end, errors.CircuitOpen)
    assert (ticket.attempt, rig.limiter.used(rig.now), rig.begun) == (0, 0, 0)


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
    ticket = rig.submit(deadline_s=90.0)
    await asyncio.sleep(0.01)
    assert rig.queue.holds(ticket)
    assert breaker.try_acquire(rig.now) is not None, "the one probe is still to be had"


async def test_concurrency_comes_before_all() -> None:
    """A task without a place takes neither a turn nor a permit."""
    rig = Rig(Answer("ok", 0.9))
    rig.queue.reconfigure(max_concurrency=1)
    for _ in range(5):
        rig.submit()
    assert (rig.queue.in_flight, rig.limiter.used(rig.now)) == (1, 1)
    await rig.end(5)


async def test_one_try_is_bounded_by_the_deadline_of_all() -> None:
    """The time of a call is the shorter of what one may take and what the task has left."""
    rig = Rig(Answer("ok", 0.9))
    rig.submit(deadline_s=30.0)
    rig.submit(deadline_s=2.0)
    await rig.end(2)
    assert [round(call.timeout_s) for call in rig.transport.calls] == [5, 2]


async def test_retries_within_the_budget() -> None:
    """Ten tasks fail: one first try each, and as many second ones as the share and the floor allow. The rest says why."""
    rig = Rig(ServerError("500"), retries=2, budget=BudgetConfig(share=0.2, floor=3))
    for _ in range(10):
        rig.submit()
    await rig.end(10)
    assert (rig.begun, rig.retried, len(rig.transport.calls)) == (10, 5, 15)
    told = [end.message for end in rig.ends if isinstance(end, AgentError)]
    assert sum("second tries" in message for message in told) >= 5
    assert {end.code for end in rig.ends if isinstance(end, AgentError)} == {"http_5xx"}


async def test_a_second_try_behind_an_open_circuit_needs_no_budget() -> None:
    """Ten tasks fail together and the circuit opens at the third: the other eight wait for it, and are answered."""
    opens = BreakerConfig(failure_threshold=3, reset_timeout_s=0.2)
    rig = Rig(ServerError("500"), retries=2, budget=BudgetConfig(share=0.0, floor=0), breaker=opens)
    for _ in range(10):
        rig.submit()
    await rig.end(2)
    assert [end.code for end in rig.ends if isinstance(end, AgentError)] == ["http_5xx"] * 2
    assert rig.retried == 8
    rig.transport.end = Answer("ok", 0.9)
    await rig.end(10)
    assert sum(isinstance(end, Answer) for end in rig.ends) == 8


async def test_answers_are_what_is_known_of_an_agent() -> None:
    """Times and confidence of answers; a failure of its own counts as no confidence at all."""
    rig = Rig(Answer("ok", 0.75))
    rig.submit()
    await rig.end()
    assert rig.track.confidence.value == 0.75
    assert rig.track.latency.mean.value is not None
    rig.transport.end = ServerError("500")
    rig.submit()
    await rig.end(2)
    assert rig.track.confidence.value == pytest.approx(0.6)
