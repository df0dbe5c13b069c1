"""The guarded call: what it owes its runs and its queue."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from agents_io.calling.pending_call import PendingCall
from agents_io.calling.rules.adaptive import AimdLimit
from agents_io.calling.rules.agent_queue import AgentQueue
from agents_io.calling.rules.breaker import BreakerConfig
from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.calling.rules.retry import RetryConfig
from agents_io.errors import AgentError, CallTimeout, Cancelled, ConnectionFailed, Expired, RateLimited, ServerError
from agents_io.rules.statuses import StillRunning
from agents_io.transport import Answer, Call, Transport
from schemas.messages import AgentRegistration
from tests.support.caller_rig import CallerRig, CallsOnly
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

AGENT = AgentRegistration(id="a", endpoint="http://agent")
OK = Answer("ok", 0.9)


class Silent(CallsOnly):
    """An agent that never answers."""

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")


class TimesOut(Silent):
    """An agent that uses up whatever time it is given; `given` says how much that was."""

    def __init__(self) -> None:
        self.given: list[float] = []

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Answer too late."""
        self.given.append(call.timeout_s)
        await asyncio.sleep(call.timeout_s)
        raise CallTimeout("no answer")


class Waits(Silent):
    """An agent that answers when it is told to."""

    def __init__(self) -> None:
        self.now = asyncio.Event()

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Answer then."""
        await self.now.wait()
        return OK


class Scripted(Silent):
    """Ends each call as the script says, the last word for ever."""

    def __init__(self, *script: Answer | AgentError) -> None:
        self.script = list(script)
        self.tasks: list[str] = []

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """The next word."""
        self.tasks.append(call.task_id)
        await asyncio.sleep(0)
        end = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(end, AgentError):
            raise end
        return end


@pytest.mark.parametrize("end", ["answered", "refused", "cancelled", "timeout", "connection"])
async def test_a_call_counts_from_its_answer_or_as_if_it_arrived_late(end: str) -> None:
    """What was sent and then given up may reach the agent after that: it counts from the latest moment at which it might."""
    transport: Transport = {
        "answered": Scripted(OK),
        "refused": Scripted(RateLimited("429")),
        "cancelled": Silent(),
        "timeout": TimesOut(),
        "connection": Scripted(ConnectionFailed("reset")),
    }[end]
    rig = CallerRig(transport, limiter=SlidingWindow(1, 60.0, late_s=1.0))
    began = rig.now
    run = rig.submit(timeout_s=0.1, max_retries=0)
    await asyncio.sleep(0.01)
    if end == "cancelled":
        rig.caller.cancel(run)
    await asyncio.sleep(0.2)
    free_at = rig.queue.limiter.available_at(rig.now)
    assert free_at - began == pytest.approx(60.0 if end in ("answered", "refused") else 61.0, abs=0.005)


async def test_cancelled_in_the_moment_it_begins_ends_once_and_frees_its_slot() -> None:
    """The asyncio task has not taken its first step yet: cancelled right there it would never clean up."""
    rig = CallerRig(Silent(), concurrency=1)
    run = rig.submit()
    rig.caller.cancel(run)
    assert [type(end) for end in await rig.ended()] == [Cancelled]
    assert (rig.queue.in_flight, rig.caller.running) == (0, 0)


@pytest.mark.parametrize(("late_s", "failures"), [(0.1, 1), (0.8, 0)])
async def test_a_worker_that_stood_still_blames_no_agent(late_s: float, failures: int) -> None:
    """Suspended during a call, it wakes after the timeout: the answer may have come long before. The attempt is used up."""

    class Stands(Silent):
        async def call(self, agent: AgentRegistration, call: Call) -> Answer:
            await asyncio.sleep(call.timeout_s + late_s)
            raise CallTimeout("no answer within 2 s")

    rig = CallerRig(Stands())
    rig.submit(timeout_s=2.0, max_retries=1)
    [end] = await rig.ended()
    assert isinstance(end, CallTimeout)
    assert end.code == "timeout"
    assert len(rig.retries) == 1
    assert rig.failures == 2 * failures
    assert ("stood still" in end.message) is not bool(failures)


async def test_an_attempt_cut_short_by_the_deadline_is_not_the_agents_fault() -> None:
    """50 ms are left of the task for a timeout of 10 s: it ends as expired, is not tried again and counts against nothing."""
    transport = TimesOut()
    rig = CallerRig(transport)
    rig.submit(timeout_s=10.0, expires_s=0.05, max_retries=2)
    [end] = await rig.ended()
    assert isinstance(end, Expired)
    assert "during the call" in end.message
    assert not end.counts_against_agent
    assert rig.failures == 0
    assert len(transport.given) == 1
    assert transport.given[0] <= 0.05


async def test_an_attempt_that_had_its_whole_timeout_counts_against_the_agent() -> None:
    """With a deadline beyond it, and without one."""
    for expires_s in (60.0, float("inf")):
        rig = CallerRig(TimesOut())
        rig.submit(timeout_s=0.05, expires_s=expires_s)
        [end] = await rig.ended()
        assert isinstance(end, CallTimeout)
        assert rig.failures == 1


async def test_each_attempt_has_the_whole_timeout_anew() -> None:
    """However long the task waited and however much the attempts before it took."""
    transport = TimesOut()
    rig = CallerRig(transport, concurrency=1)
    for name in "ab":
        rig.submit(name, timeout_s=0.03, max_retries=1)
    await rig.ended(2)
    assert transport.given == [0.03] * 4


async def test_waiting_for_an_open_circuit_uses_up_no_attempt() -> None:
    """A task without a deadline outlasts the outage; failed probes cost it nothing, and the agent answers it in the end."""
    down = [ServerError("500")] * 4
    transport = Scripted(*down, OK)
    rig = CallerRig(transport, breaker=BreakerConfig(failure_threshold=1, reset_timeout_s=0.02, probes=1))
    rig.open_circuit()
    run = rig.submit(max_retries=0)
    assert await rig.ended() == [OK]
    assert (run.calls, run.attempts) == (5, 0)
    assert len(rig.retries) == 4


async def test_a_failed_probe_lets_other_tasks_probe_next() -> None:
    """It goes on after the circuit half-opens again, behind those that may begin then: none alone keeps the circuit open."""
    transport = Scripted(ServerError("500"), OK)
    rig = CallerRig(transport, breaker=BreakerConfig(failure_threshold=1, reset_timeout_s=0.05, probes=1))
    rig.open_circuit()
    for name in "ab":
        rig.submit(name, max_retries=0)
    assert await rig.ended(2) == [OK, OK]
    assert transport.tasks[0] == "a"
    assert rig.circuit[:3] == ["open", "half-open", "open"]


async def test_a_wish_to_be_called_later_uses_up_no_attempt() -> None:
    """429 with Retry-After: the queue pauses, the task waits and is answered, also with no retry allowed."""
    transport = Scripted(RateLimited("later", retry_after_s=0.02), RateLimited("later", retry_after_s=0.02), OK)
    rig = CallerRig(transport)
    run = rig.submit(max_retries=0)
    assert await rig.ended() == [OK]
    assert (run.calls, run.attempts) == (3, 0)


async def test_a_task_that_still_runs_pauses_no_other() -> None:
    """409 with Retry-After: it waits by itself; the agent takes other tasks, and shows no overload."""
    rig = CallerRig(Scripted(StillRunning("409", retry_after_s=20.0), OK))
    rig.queue.adaptive = AimdLimit(10)
    rig.submit("repeated", max_retries=0)
    await until(lambda: rig.retries == [20.0])
    begun = rig.now
    rig.submit("other")
    assert await rig.ended() == [OK]
    assert (rig.now - begun < 1.0, rig.queue.concurrency) == (True, 10)
    assert await rig.ended(2) == [OK, OK]
    assert rig.now - begun == pytest.approx(20.0, abs=1.0)


async def test_an_error_without_such_a_wish_uses_up_attempts() -> None:
    """As many as are allowed, and no more."""
    transport = Scripted(ServerError("500"))
    rig = CallerRig(transport)
    run = rig.submit(max_retries=2)
    [end] = await rig.ended()
    assert isinstance(end, ServerError)
    assert (run.calls, run.attempts) == (3, 3)


@pytest.mark.parametrize("why", ["circuit", "rate limit", "Retry-After"])
async def test_what_can_have_no_turn_before_its_deadline_ends_at_once(why: str) -> None:
    """As expired, saying what it would have waited for; no call is made; one without a deadline waits on."""
    limiter = SlidingWindow(1, 60.0)
    transport = Scripted(OK)
    rig = CallerRig(transport, limiter=limiter, breaker=BreakerConfig(failure_threshold=1, reset_timeout_s=60.0))
    if why == "circuit":
        rig.open_circuit()
    elif why == "rate limit":
        limiter.try_acquire(rig.now)
    else:
        limiter.pause_until(rig.now + 60.0)
    rig.submit("patient")
    rig.submit("hasty", expires_s=30.0)
    [end] = rig.ends
    assert isinstance(end, Expired)
    assert why in end.message
    assert (rig.queue.waiting, transport.tasks) == (1, [])
    rig.caller.close()


async def test_one_that_expires_in_its_queue_says_what_it_waited_for() -> None:
    """A place at the agent; and how its last attempt ended, if there was one."""
    rig = CallerRig(Silent(), concurrency=1)
    rig.submit("hangs")
    rig.submit("waits", expires_s=0.02, failure=ServerError("500 of before"))
    [end] = await rig.ended()
    assert isinstance(end, Expired)
    assert "while the task waited" in end.message
    assert "500 of before" in end.message
    rig.caller.close()
    await asyncio.sleep(0)


async def test_a_retry_that_would_begin_after_the_deadline_is_not_made() -> None:
    """The failure is the end, and says so; where only waiting was asked for, it is the deadline that ends the task."""
    rig = CallerRig(Scripted(RateLimited("later", retry_after_s=60.0)))
    rig.submit(max_retries=5, expires_s=30.0)
    [end] = await rig.ended()
    assert isinstance(end, Expired)
    assert "not retried" in end.message
    assert "rate_limited: later" in end.message
    assert rig.retries == []
    rig = CallerRig(Scripted(ServerError("500")), breaker=BreakerConfig(failure_threshold=1, reset_timeout_s=60.0))
    rig.submit(max_retries=5, expires_s=30.0)
    [end] = await rig.ended()
    assert isinstance(end, ServerError)
    assert "not retried" in end.message
    assert rig.retries == []


async def test_no_call_begins_while_the_worker_does_not_know_whether_it_owns_the_agent() -> None:
    """It looks again soon, by itself."""
    may = [False]
    transport = Scripted(OK)
    rig = CallerRig(transport, may_begin=lambda: may[0])
    rig.submit()
    await asyncio.sleep(0.15)
    assert transport.tasks == []
    may[0] = True
    assert await rig.ended() == [OK]


async def test_the_end_of_a_call_is_a_change_to_be_kept() -> None:
    """A commit came while it was under way; what the rate limit counts from is known only now."""
    transport = Waits()
    rig = CallerRig(transport, limiter=SlidingWindow(100, 60.0, late_s=1.0))
    rig.submit()
    assert rig.caller.changed
    rig.caller.changed = False
    await asyncio.sleep(0.05)
    assert not rig.caller.changed
    transport.now.set()
    await rig.ended()
    assert rig.caller.changed


class Busy(AgentQueue[PendingCall]):
    """A queue on a machine so busy that the time it names has passed before it is heard."""

    def next_wakeup(self, now: float) -> float | None:
        """A moment ago."""
        time.sleep(0.005)
        return now + 0.002


def test_a_turn_that_takes_long_sets_its_timer_all_the_same() -> None:
    """uvloop makes no timer of a time that has passed: asking it when it rings broke the task that came next."""

    async def scenario() -> None:
        rig = CallerRig(Silent(), concurrency=1, make_queue=Busy)
        for number in range(3):
            rig.submit(f"t{number}", expires_s=30.0)
        assert (rig.caller.running, rig.queue.waiting) == (1, 2)
        rig.caller.close()
        await asyncio.sleep(0)

    uvloop.run(scenario())


async def test_a_few_milliseconds_before_the_deadline_a_timeout_is_not_the_agents_own() -> None:
    """uvloop's clock may say that such a call took less than nine tenths of its time; the circuit opened at that."""

    class Early(Silent):
        async def call(self, agent: AgentRegistration, call: Call) -> Answer:
            await asyncio.sleep(call.timeout_s - 0.002)
            raise CallTimeout("no answer within 0.007 s")

    rig = CallerRig(Early())
    rig.submit(timeout_s=10.0, expires_s=0.007, max_retries=2)
    [end] = await rig.ended()
    assert isinstance(end, Expired)
    assert rig.failures == 0


class TellsWhen(Silent):
    """An agent that asks to be left alone for 20 ms whenever it is called; `pauses` says for how long it was, seconds."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._told: float | None = None

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """429."""
        if self._told is not None:
            self.pauses.append(time.monotonic() - self._told)
        await asyncio.sleep(0)
        self._told = time.monotonic()
        raise RateLimited("busy", retry_after_s=0.02)


def test_uvloops_clock_makes_no_pause_shorter() -> None:
    """Its clock has whole milliseconds, cut off: a pause was up to one shorter than the agent had asked for."""

    async def scenario() -> list[float]:
        agent = TellsWhen()
        retry = RetryConfig(initial_delay_s=0.001, max_delay_s=0.001, jitter=False)
        rig = CallerRig(agent, concurrency=1, limiter=SlidingWindow(1000, 60.0), retry=retry)
        rig.submit()
        await until(lambda: len(agent.pauses) == 50, 30)
        rig.caller.close()
        return agent.pauses

    assert min(uvloop.run(scenario())) >= 0.02
