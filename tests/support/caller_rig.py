"""One caller of one agent, with each of its guards in sight and a record of what it reports. For tests in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from agents_io.calling.call_stats import CallStats
from agents_io.calling.caller import Caller
from agents_io.calling.pending_call import PendingCall
from agents_io.calling.rules.agent_queue import AgentQueue
from agents_io.calling.rules.breaker import Breaker, BreakerConfig, Transition
from agents_io.calling.rules.budget import BudgetConfig, RetryBudget
from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.calling.rules.retry import RetryConfig
from agents_io.errors import AgentError
from agents_io.transport import Answer, Transport
from schemas.messages import AgentRegistration
from tests.support.wait import until

End = Answer | AgentError
AGENT = AgentRegistration(id="a", endpoint="http://a")
QUICK = RetryConfig(initial_delay_s=0.001, jitter=False)

T = TypeVar("T", bound=Transport)


class CallsOnly:
    """The half of a transport that no test of a caller looks at."""

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Not asked."""

    async def close(self) -> None:
        """Nothing to release."""


class CallerRig(Generic[T]):
    """`options`: what else the caller takes.

    It records `ends` in their order, `begun` tasks, the pauses before `retries` in seconds, and the states of the `circuit`.
    """

    def __init__(
        self,
        transport: T,
        *,
        agent: AgentRegistration = AGENT,
        concurrency: int = 10,
        breaker: BreakerConfig | None = None,
        limiter: SlidingWindow | None = None,
        budget: BudgetConfig | None = None,
        retry: RetryConfig = QUICK,
        stats: CallStats | None = None,
        make_queue: Callable[..., AgentQueue[PendingCall]] = AgentQueue,
        **options: Any,
    ) -> None:
        self.transport = transport
        self.breaker = Breaker(breaker)
        self.limiter = limiter or SlidingWindow(100, 60.0)
        self.stats = stats or CallStats()
        self.ends: list[End] = []
        self.begun = 0
        self.retries: list[float] = []
        self.circuit: list[str] = []
        self.queue = make_queue(
            max_concurrency=concurrency, limiter=self.limiter, breaker=self.breaker, budget=RetryBudget(budget)
        )
        self.caller = Caller(
            agent=agent,
            queue=self.queue,
            transport=transport,
            retry=retry,
            events=self,
            rng=random.Random(1),
            stats=self.stats,
            **options,
        )

    @property
    def now(self) -> float:
        """Loop time."""
        return asyncio.get_running_loop().time()

    @property
    def failures(self) -> int:
        """What its circuit counts now."""
        return self.breaker.failures(self.now)

    def submit(self, task_id: str = "t", *, expires_s: float = float("inf"), **fields: Any) -> PendingCall:
        """One task, which has so many seconds. `fields`: of `PendingCall`."""
        given = {"idempotency_key": task_id, "body": b"{}", "timeout_s": 30.0, "deadline": self.now + expires_s}
        run = PendingCall(task_id=task_id, **given | fields)
        self.caller.submit(run)
        return run

    async def ended(self, count: int = 1) -> list[End]:
        """The ends, once there are so many."""
        await until(lambda: len(self.ends) >= count)
        await asyncio.sleep(0)
        return self.ends

    def open_circuit(self) -> None:
        """As many failures as it takes."""
        while (permit := self.breaker.try_acquire(self.now)) is not None:
            self.breaker.record(permit, "failure", self.now)

    def on_first_call(self, run: PendingCall) -> None:
        """Count it."""
        self.begun += 1

    def on_retry(self, run: PendingCall, delay_s: float) -> None:
        """Keep it."""
        self.retries.append(delay_s)

    def on_finished(self, run: PendingCall, outcome: End) -> None:
        """Keep it."""
        self.ends.append(outcome)

    def on_circuit(self, agent_id: str, transition: Transition) -> None:
        """Keep it."""
        self.circuit.append(transition.kind)
