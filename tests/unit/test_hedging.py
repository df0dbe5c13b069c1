"""Two calls for one task: the first answer wins, nothing is left running, and limits and budget hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents_io.calling.hedging import race
from agents_io.calling.pending_call import PendingCall
from agents_io.calling.rules.budget import BudgetConfig
from agents_io.calling.rules.latency import ENOUGH
from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.calling.rules.retry import RetryConfig
from agents_io.errors import CallTimeout, Cancelled, ServerError
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from tests.support.caller_rig import CallerRig, CallsOnly, End
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


class Scripted(CallsOnly):
    """Each call takes so long and ends so; what was cut off is counted."""

    def __init__(self, *steps: tuple[float, Answer | BaseException]) -> None:
        self.steps = list(steps)
        self.begun = self.cut = 0

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """The next step."""
        took, end = self.steps[self.begun]
        self.begun += 1
        try:
            await asyncio.sleep(took)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        if isinstance(end, BaseException):
            raise end
        return end


LONG, SHORT = 30.0, 0.01
FIRST, SECOND = Answer("first", 0.9), Answer("second", 0.8)


class Rig(CallerRig[Scripted]):
    """An agent that usually answers within 20 ms; `known`: how many of its times are."""

    def __init__(
        self,
        *steps: tuple[float, Answer | BaseException],
        known: int = ENOUGH,
        agent_hedges: bool = False,
        **guards: Any,
    ) -> None:
        limits = {"hedge": True} if agent_hedges else None
        agent = AgentRegistration.model_validate({"id": "a", "endpoint": "http://a", "limits": limits})
        guards = {"budget": BudgetConfig(0.0, 5)} | guards
        super().__init__(Scripted(*steps), agent=agent, retry=RetryConfig(), **guards)
        for _ in range(known):
            self.stats.latency.add(0.02)

    def pending(self, hedge: bool = True) -> PendingCall:
        """A task that allows it."""
        now = asyncio.get_running_loop().time()
        return PendingCall(
            task_id="t", idempotency_key="t", body=b"{}", timeout_s=60.0, deadline=now + 600.0, hedge=hedge
        )

    async def end(self, run: PendingCall | None = None) -> End:
        """Send a task and wait for its end."""
        self.caller.submit(run or self.pending())
        [end] = await self.ended()
        assert (self.queue.in_flight, self.caller.running) == (0, 0)
        return end


async def test_the_second_call_answers_and_the_first_is_cut_off() -> None:
    """One end, one success for the agent; both calls count for the rate limit; the task was tried once."""
    rig = Rig((LONG, FIRST), (SHORT, SECOND))
    run = rig.pending()
    assert await rig.end(run) is SECOND
    now = asyncio.get_running_loop().time()
    assert (rig.transport.begun, rig.transport.cut, rig.stats.hedges, run.calls) == (2, 1, 1, 1)
    assert rig.limiter.used(now) == 2
    assert rig.breaker.failures(now) == 0


async def test_the_first_call_answers_after_all() -> None:
    """Then the second is cut off."""
    rig = Rig((0.1, FIRST), (LONG, SECOND))
    assert await rig.end() is FIRST
    assert (rig.transport.begun, rig.transport.cut) == (2, 1)


async def test_a_failure_of_one_waits_for_the_other() -> None:
    """And counts as what it is."""
    for steps, expected in (
        (((0.1, ServerError("first")), (0.2, SECOND)), SECOND),
        (((0.2, FIRST), (SHORT, ServerError("second"))), FIRST),
    ):
        rig = Rig(*steps)
        assert await rig.end() is expected
        assert rig.failures == 1
        assert rig.transport.cut == 0


async def test_both_fail() -> None:
    """The task ends with the first call's error; both failures count."""
    rig = Rig((0.1, ServerError("first")), (0.15, CallTimeout("second")))
    end = await rig.end()
    assert isinstance(end, ServerError)
    assert rig.failures == 2


@pytest.mark.parametrize(
    "options",
    [{"budget": BudgetConfig(0.0, 0)}, {"limiter": SlidingWindow(1, 60.0)}, {"concurrency": 1}, {"known": ENOUGH - 1}],
    ids=["budget", "rate limit", "concurrency", "too few times known"],
)
async def test_no_second_call_beyond_any_limit(options: dict[str, Any]) -> None:
    """Budget, rate limit, concurrency; nor before it is known how long calls take."""
    rig = Rig((0.15, FIRST), (SHORT, SECOND), **options)
    assert await rig.end() is FIRST
    assert (rig.transport.begun, rig.stats.hedges) == (1, 0)


async def test_only_where_it_was_asked_for() -> None:
    """By the task, or by the agent's registration."""
    rig = Rig((0.15, FIRST), (SHORT, SECOND))
    assert await rig.end(rig.pending(hedge=False)) is FIRST
    rig = Rig((LONG, FIRST), (SHORT, SECOND), agent_hedges=True)
    assert await rig.end(rig.pending(hedge=False)) is SECOND


async def test_waiting_tasks_go_before_second_calls() -> None:
    """A slot that an item could use is not for hedging."""
    rig = Rig((0.15, FIRST), (SHORT, SECOND), (SHORT, SECOND))
    run = rig.pending()
    rig.caller.submit(run)
    other = rig.pending()
    rig.queue.push(other, now=0.0, deadline=other.deadline)
    await until(lambda: len(rig.ends) == 2, 20)
    assert rig.stats.hedges == 0


async def test_cancelled_cuts_off_both() -> None:
    """At once, and the task ends once."""
    rig = Rig((LONG, FIRST), (LONG, SECOND))
    run = rig.pending()
    rig.caller.submit(run)
    await until(lambda: rig.transport.begun == 2)
    rig.caller.cancel(run)
    await until(lambda: bool(rig.ends))
    assert [type(end) for end in rig.ends] == [Cancelled]
    assert rig.transport.cut == 2
    assert rig.queue.in_flight == 0


async def test_a_race_passes_on_what_is_no_error_of_an_agent() -> None:
    """A fault of our own is not an answer; the other call is cut off."""
    other = Scripted((LONG, SECOND))
    agent = AgentRegistration(id="a", endpoint="http://a")
    call = Call("t", "t", b"", 1.0)

    def once(transport: Scripted) -> Callable[[], Any]:
        return lambda: transport.call(agent, call)

    with pytest.raises(KeyError):
        await race(Scripted((0.1, KeyError("bug"))).call(agent, call), 0.01, once(other))
    assert other.cut == 1
    found = await race(Scripted((SHORT, FIRST)).call(agent, call), 5.0, once(Scripted()))
    assert found == (FIRST, FIRST)
