"""Explains what a task waits for, for `/partitions`, the page and the event `dispatch:blocked`.

In: where the tasks of one partition wait. Out: a reason, and for tasks in memory their id, agent, age and the begin of
the wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

from schemas.messages import ErrorCode
from schemas.times import format_time
from streams.dispatch.agent_queues import AgentQueues
from streams.dispatch.backlogs import Backlogs
from streams.dispatch.coalescing import SingleFlight
from streams.dispatch.ordered_key import PREFIX as ORDERED
from streams.dispatch.ordering import OrderedTasks
from streams.dispatch.task_run import TaskRun
from streams.dispatch.unassigned import UnassignedTasks

CLOSED = ("circuit_open", "retry_after", "rate_limited")
"""Reasons why the agent as a whole takes no call until a known time."""


class Explainer:
    """Explains the tasks of one partition. `wall_ms`: epoch ms."""

    def __init__(
        self,
        *,
        queues: AgentQueues,
        unassigned: UnassignedTasks,
        flights: SingleFlight,
        ordering: OrderedTasks,
        backlogs: Backlogs,
        wall_ms: Callable[[], int],
    ) -> None:
        self._queues = queues
        self._unassigned = unassigned
        self._flights = flights
        self._ordering = ordering
        self._backlogs = backlogs
        self._wall_ms = wall_ms
        self._loop = asyncio.get_running_loop()

    def record(self, source: str, offset: int) -> dict[str, Any] | None:
        """What a record that stays on its topic waits for; None if it does not wait there."""
        key = self._backlogs.key_of(source, offset)
        if key is not None and key.startswith(ORDERED):
            return {"reason": "ordering", "waits": True}
        caller = self._queues.callers.get(key or "")
        if caller is None:
            return None if key is None else {"reason": "no_agent", "waits": True}
        return {"agentId": key, "reason": caller.queue.closed_by(self._loop.time()) or "concurrency", "waits": True}

    def run(self, run: TaskRun) -> dict[str, Any]:
        """What a task in memory waits for. `since`: its last call; without a call, its record's timestamp.

        `waits`: it waits for its turn, like work in a queue; otherwise the worker or an agent is busy with it.
        """
        now = self._loop.time()
        reason = self._reason(run, now)
        since_ms = self._wall_ms() - round((now - (run.last_call_at or run.admitted_at)) * 1000)
        return {
            "taskId": run.task_id,
            "agentId": run.agent_id,
            "age": round((now - run.admitted_at) * 1000),
            "reason": reason,
            "waits": reason not in ("calling", "looking_for_agent"),
            "since": format_time(since_ms if run.calls else min(since_ms, run.origin_ms)),
        }

    def details(self, run: TaskRun) -> dict[str, Any]:
        """As `run`, with the limits of the wait and the task's history.

        `until`: the earliest time at which the agent can be called again, if circuit, pause or rate limit prevent it
        now. `deadline`: null without one. `attempts` used up of `maxAttempts`, `calls` made; `failure`: `{code,
        message}` of the last one. `circuit`, if the task waits for it: `{mode, failure}`: how it was opened (`auto`, or
        `open`: by hand) and the agent's last failure, null without one at this worker.
        """
        found = self.run(run)
        now, wall_ms = self._loop.time(), self._wall_ms()
        caller = self._queues.callers.get(run.agent_id or "")
        open_at = now if caller is None else caller.queue.open_at(now)
        closed = found["reason"] in CLOSED and now < open_at < inf
        return found | {
            "until": format_time(wall_ms + round((open_at - now) * 1000)) if closed else None,
            "deadline": None if run.deadline_ms is None else format_time(run.deadline_ms),
            "calls": run.calls,
            "attempts": run.attempts,
            "maxAttempts": run.max_retries + 1,
            "failure": None if run.failure is None else _failure(run.failure.code, run.failure.message),
            "circuit": None if caller is None or found["reason"] != "circuit_open" else {
                "mode": caller.queue.breaker.config.mode, "failure": caller.stats.failure and _failure(*caller.stats.failure),
            },
        }  # fmt: skip

    def _reason(self, run: TaskRun, now: float) -> str:
        if self._ordering.waits(run):
            return "ordering"
        if self._unassigned.holds(run):
            return "no_agent"
        if self._flights.waits(run):
            return "equal_task_under_way"
        caller = self._queues.callers.get(run.agent_id or "")
        return (caller.waits_for(run, now) if caller is not None else None) or "looking_for_agent"


def _failure(code: ErrorCode, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
