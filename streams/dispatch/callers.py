"""Makes a `Caller` from a registration and the settings: the one place where an agent's limits meet the defaults.

In: `AgentRegistration`s. Out: callers with their queue, limiter and breaker; a changed registration changes them in
place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agents_io.calling.call_stats import CallStats
from agents_io.calling.caller import Caller
from agents_io.calling.pending_call import CallEvents
from agents_io.calling.rules.adaptive import AimdLimit
from agents_io.calling.rules.agent_queue import AgentQueue
from agents_io.calling.rules.breaker import Breaker, BreakerConfig
from agents_io.calling.rules.budget import BudgetConfig, RetryBudget
from agents_io.calling.rules.health import Ejection, EjectionConfig
from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.calling.rules.retry import RetryConfig
from agents_io.calling.sampling import Sample
from agents_io.transport import Transport
from schemas.messages import AgentRegistration, Limits
from streams.dispatch.task_run import TaskRun
from streams.settings import Settings

MAX_LATE_S = 1.0
"""A call that lasts longer than this is assumed to have reached its agent by then; less for short windows:
`_late_s`.
"""


@dataclass(frozen=True, slots=True)
class GuardSnapshot:
    """Snapshots of an agent's guards. `taken_at`: when, on this process's monotonic clock, seconds.

    `concurrency`: the adaptive limit found so far.
    """

    breaker: Mapping[str, Any]
    limiter: Mapping[str, Any]
    taken_at: float
    concurrency: float | None = None
    ejection: Mapping[str, Any] | None = None


class CallerFactory:
    """Makes callers over one transport. `worth`: the calibrated value of an agent's stated confidence; None:
    unknown.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        transport: Transport,
        rng: random.Random,
        worth: Callable[[str, float], float | None] = lambda _agent, _confidence: None,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_begin`: whether this worker still owns its partitions, as far as it can know."""
        retry = settings.retry
        self._may_begin = may_begin
        self._settings = settings
        self._transport = transport
        self._rng = rng
        self._worth = worth
        self._retry = RetryConfig(
            initial_delay_s=retry.initial_delay / 1000,
            multiplier=retry.backoff_multiplier,
            max_delay_s=retry.max_delay / 1000,
            jitter=retry.jitter,
        )
        self._budget = BudgetConfig(retry.budget_share, retry.budget_floor)
        health = settings.health
        longest_s = max(health.eject_time, health.eject_time_max) / 1000
        self._ejection = EjectionConfig(health.eject_after, health.eject_time / 1000, longest_s)

    def make(
        self, agent: AgentRegistration, events: CallEvents[TaskRun], stored: GuardSnapshot | None = None
    ) -> Caller[TaskRun]:
        """A new caller (circuit closed, window empty), or one with the state of an earlier owner."""
        limits = self._limits(agent)
        window_s, late_s = limits.window_ms / 1000, _late_s(limits)
        limiter, breaker = SlidingWindow(limits.max_requests, window_s, late_s), Breaker(self._breaker(agent))
        if stored is not None:
            limiter = SlidingWindow.restore(limits.max_requests, window_s, stored.limiter, stored.taken_at, late_s)
            breaker = Breaker.restore(self._breaker(agent), stored.breaker, stored.taken_at)
        queue: AgentQueue[TaskRun | Sample[TaskRun]] = AgentQueue(
            max_concurrency=limits.max_concurrency, limiter=limiter, breaker=breaker, budget=RetryBudget(self._budget)
        )
        if limits.adaptive:
            queue.adaptive = AimdLimit(limits.max_concurrency, None if stored is None else stored.concurrency)
        stats = CallStats(Ejection(self._ejection), worth=partial(self._worth, agent.id))
        if stored is not None and stored.ejection is not None:
            stats.ejection.restore(stored.ejection, stored.taken_at)
        return Caller(
            agent=agent,
            queue=queue,
            transport=self._transport,
            retry=self._retry,
            events=events,
            rng=self._rng,
            stats=stats,
            may_begin=self._may_begin,
        )

    def update(self, caller: Caller[TaskRun], agent: AgentRegistration) -> None:
        """The agent was registered again: its new endpoint and limits apply from the next call on."""
        limits = self._limits(agent)
        caller.agent = agent
        if not limits.adaptive:
            caller.queue.adaptive = None
        elif caller.queue.adaptive is None:
            caller.queue.adaptive = AimdLimit(limits.max_concurrency)
        caller.queue.reconfigure(
            max_concurrency=limits.max_concurrency,
            max_requests=limits.max_requests,
            window_s=limits.window_ms / 1000,
            breaker=self._breaker(agent),
        )

    def _limits(self, agent: AgentRegistration) -> Limits:
        return agent.limits or self._settings.limits

    def _breaker(self, agent: AgentRegistration) -> BreakerConfig:
        limits = agent.breaker or self._settings.breaker
        return BreakerConfig(
            failure_threshold=limits.failure_threshold,
            reset_timeout_s=limits.reset_timeout / 1000,
            monitoring_period_s=limits.monitoring_period / 1000,
            failure_rate=limits.failure_rate,
            minimum_calls=limits.minimum_calls,
            slow_call_s=None if limits.slow_call_duration is None else limits.slow_call_duration / 1000,
            slow_rate=limits.slow_rate,
            mode=limits.mode,
        )


def _late_s(limits: Limits) -> float:
    """At most a sixtieth of the window, which bounds what long calls cost of the rate, and at least 50 ms."""
    return min(MAX_LATE_S, max(0.05, limits.window_ms / 60_000))
