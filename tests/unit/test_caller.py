"""The guarded call: what it owes its tickets and its lane."""

from __future__ import annotations

import asyncio
import random
import time

import uvloop

from agents_io.caller import Caller
from agents_io.errors import AgentError, CallTimeout, Cancelled, RushedTimeout
from agents_io.rules.breaker import Breaker, Transition
from agents_io.rules.agent_queue import AgentQueue
from agents_io.rules.limiter import SlidingWindow
from agents_io.rules.retry import RetryConfig
from agents_io.pending_call import PendingCall
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration


class Silent:
    """An agent that never answers."""

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")

    async def close(self) -> None:
        """Nothing to release."""


class Ends:
    """Keeps how tickets ended."""

    def __init__(self) -> None:
        self.ends: list[Answer | AgentError] = []

    def started(self, ticket: PendingCall) -> None:
        """Not looked at."""

    def retrying(self, ticket: PendingCall, delay_s: float) -> None:
        """Not looked at."""

    def finished(self, ticket: PendingCall, answer: Answer | AgentError) -> None:
        """Keep it."""
        self.ends.append(answer)

    def circuit(self, agent_id: str, transition: Transition) -> None:
        """Not looked at."""


async def test_cancelled_in_the_moment_it_begins_ends_once_and_frees_its_slot() -> None:
    """The asyncio task has not taken its first step yet: cancelled right there it would never clean up."""
    now = asyncio.get_running_loop().time()
    ends = Ends()
    lane: AgentQueue[PendingCall] = AgentQueue(1, SlidingWindow(100, 60.0), Breaker(), depth=10)
    agent = AgentRegistration(id="a", endpoint="http://agent")
    caller = Caller(agent, lane, Silent(), RetryConfig(), ends, random.Random(1))
    ticket = PendingCall("t", "t", b"{}", now, now + 30.0, 0, 2, None)
    assert caller.submit(ticket)
    caller.cancel(ticket)
    for _ in range(5):
        await asyncio.sleep(0)
    assert [type(end) for end in ends.ends] == [Cancelled]
    assert (lane.in_flight, caller.running) == (0, 0)


class TimesOut:
    """An agent that uses up whatever time it is given."""

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Answer too late."""
        await asyncio.sleep(call.timeout_s)
        raise CallTimeout("no answer")

    async def close(self) -> None:
        """Nothing to release."""


async def test_an_agent_is_not_blamed_for_what_the_queue_left_it() -> None:
    """A call that begins with 50 ms of a 10 s deadline left times out without counting; one with its full time counts."""
    now = asyncio.get_running_loop().time()
    ends = Ends()
    breaker = Breaker()
    lane: AgentQueue[PendingCall] = AgentQueue(5, SlidingWindow(100, 60.0), breaker, depth=10)
    caller = Caller(
        AgentRegistration(id="a", endpoint="http://agent"), lane, TimesOut(), RetryConfig(), ends, random.Random(1)
    )
    assert caller.submit(PendingCall("late", "late", b"{}", now - 9.95, now + 0.05, 0, 0, None))
    await asyncio.sleep(0.15)
    [end] = ends.ends
    assert isinstance(end, RushedTimeout)
    assert end.code == "timeout"
    assert not end.counts_against_agent
    assert breaker.failures(asyncio.get_running_loop().time()) == 0
    now = asyncio.get_running_loop().time()
    assert caller.submit(PendingCall("full", "full", b"{}", now, now + 0.05, 0, 0, None))
    await asyncio.sleep(0.15)
    assert ends.ends[1].counts_against_agent  # type: ignore[union-attr]
    assert breaker.failures(asyncio.get_running_loop().time()) == 1


class Waits:
    """An agent that answers when it is told to."""

    def __init__(self) -> None:
        self.now = asyncio.Event()

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Answer then."""
        await self.now.wait()
        return Answer("ok", 0.9)

    async def close(self) -> None:
        """Nothing to release."""


async def test_the_end_of_a_call_is_a_change_to_be_kept() -> None:
    """A commit came while it was under way; what the rate limit counts from is known only now."""
    now = asyncio.get_running_loop().time()
    transport = Waits()
    limiter = SlidingWindow(100, 60.0, late_s=1.0)
    lane: AgentQueue[PendingCall] = AgentQueue(5, limiter, Breaker(), depth=10)
    agent = AgentRegistration(id="a", endpoint="http://agent")
    caller = Caller(agent, lane, transport, RetryConfig(), Ends(), random.Random(1))
    assert caller.submit(PendingCall("t", "t", b"{}", now, now + 30.0, 0, 2, None))
    assert caller.changed
    caller.changed = False
    await asyncio.sleep(0.05)
    assert not caller.changed
    transport.now.set()
    await asyncio.sleep(0.05)
    assert caller.changed


class Slow(AgentQueue[PendingCall]):
    """A lane on a machine so busy that the time it names has passed before it is heard."""

    def next_wakeup(self, now: float) -> float | None:
        """A moment ago."""
        time.sleep(0.005)
        return now + 0.002


def test_a_turn_that_takes_long_sets_its_timer_all_the_same() -> None:
    """uvloop makes no timer of a time that has passed: asking it when it rings broke the task that came next."""

    async def scenario() -> None:
        now = asyncio.get_running_loop().time()
        lane = Slow(1, SlidingWindow(100, 60.0), Breaker(), depth=10)
        agent = AgentRegistration(id="a", endpoint="http://agent")
        caller = Caller(agent, lane, Silent(), RetryConfig(), Ends(), random.Random(1))
        for number in range(3):
            assert caller.submit(PendingCall(f"t{number}", "k", b"{}", now, now + 30.0, 0, 2, None))
        assert (caller.running, lane.waiting) == (1, 2)
        caller.close()
        await asyncio.sleep(0)

    uvloop.run(scenario())
