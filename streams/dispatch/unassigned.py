"""Tasks that wait until an agent is available: none with their capabilities is registered, healthy and taking calls.

In: task runs without an agent. Out: each again when a suitable agent appears, every few seconds, and when its deadline
passes. Held in memory up to a share, else on their topic; in order. It decides nothing: the router is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from schemas.messages import AgentRegistration
from streams.dispatch.backlogs import Backlogs
from streams.dispatch.held_memory import HeldMemory
from streams.dispatch.task_run import TaskRun

CHECK_S = 5.0
"""Waiting tasks are tried again this often, if no agent appeared before."""
BACKLOG_CHECK_S = 1.0
"""The same while some of them wait on their topic: their deadlines have no timer."""
BATCH = 64
"""Tasks tried in one turn of the loop."""
PREFIX = "\x00"
"""No agent's id begins with it: it separates keys of groups from those of agents."""


def group_key(run: TaskRun) -> str:
    """Tasks of one group wait for the same agents.

    Groups are the sorted capabilities, or the name of the agent.
    """
    if run.task.target is not None:
        return f"{PREFIX}={run.task.target}"
    return PREFIX + "\x1f".join(sorted(run.task.capabilities or ()))


class UnassignedTasks:
    """`retry` routes a run again and returns whether it still waits; `leave` forgets one whose record stays on its
    topic.
    """

    def __init__(
        self,
        *,
        memory: HeldMemory,
        backlogs: Backlogs,
        retry: Callable[[TaskRun], bool],
        expire: Callable[[TaskRun], None],
        leave: Callable[[TaskRun], None],
    ) -> None:
        self._memory = memory
        self._backlogs = backlogs
        self._retry = retry
        self._expire = expire
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._groups: dict[str, dict[TaskRun, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._closed = False

    def __len__(self) -> int:
        """Tasks held in memory."""
        return sum(map(len, self._groups.values()))

    def add(self, run: TaskRun) -> None:
        """Wait for an agent in memory; or else the record stays on its topic, and the run is over."""
        key = group_key(run)
        # One whose record is being relocated has no place on its topic now.
        its_turn = run.token is not None or run.reloaded == key
        ahead = not its_turn and self._backlogs.precedes(key, run.priority)
        if ahead or not (its_turn or self._memory.room_for(key, BATCH, run.size)):
            self._backlogs.add(key, run)
            self._leave(run)
        else:
            self._memory.hold(run, key)
            self._groups.setdefault(key, {})[run] = None
        self._set_timer(min(self._loop.time() + CHECK_S, run.deadline))

    def holds(self, run: TaskRun) -> bool:
        """Whether the task waits here, in memory."""
        return run in self._groups.get(group_key(run), ())

    def remove(self, run: TaskRun) -> bool:
        """Remove the task; False if it did not wait here."""
        key = group_key(run)
        group = self._groups.get(key)
        if group is None or run not in group:
            return False
        del group[run]
        if not group:
            del self._groups[key]
        self._memory.release(run)
        return True

    def appeared(self, agent: AgentRegistration) -> None:
        """An agent became available."""
        offered = set(agent.capabilities)
        for key in self._keys():
            wanted = key.removeprefix(PREFIX)
            if wanted == f"={agent.id}" or (not wanted.startswith("=") and offered >= set(wanted.split("\x1f"))):
                self._try(key)

    def loaded(self, key: str) -> None:
        """Tasks that waited for this were read back."""
        if key.startswith(PREFIX):
            self._try(key)

    def close(self) -> None:
        """Forget everything. `DispatchHandler.close` releases the memory."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._groups.clear()

    def _backlog_keys(self) -> list[str]:
        return [key for key in self._backlogs.keys if key.startswith(PREFIX)]

    def _keys(self) -> list[str]:
        """Keys of the groups that wait in memory or on their topic, in order of arrival; the order of a set would
        differ between runs.
        """
        return list(dict.fromkeys([*self._groups, *self._backlog_keys()]))

    def _try(self, key: str) -> None:
        """Route them in order, until the first that still waits. The rest of a long group follows in later turns of the
        loop.
        """
        group = self._groups.get(key, {})
        # One whose record is being relocated cannot go elsewhere before the new record has come.
        ready = [run for run in group if run.token is None]
        for run in ready[:BATCH]:
            if self._closed or run not in group:
                return
            if self._retry(run):
                return
        if len(ready) > BATCH:
            self._loop.call_soon(self._try, key)
        elif group:
            return
        elif self._backlogs.waiting(key) and not self._closed:
            self._backlogs.load(key, min(BATCH, max(1, self._memory.may_load(key, self._backlogs.average_size(key)))))

    def _set_timer(self, at: float) -> None:
        if self._closed or at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = max(at, self._loop.time() + 0.001)
        self._timer = self._loop.call_at(self._timer_at, self._check)

    def _check(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self._loop.time()
        self._backlogs.load_expired(now)
        for group in list(self._groups.values()):
            # Deadlines are whole ms of the wall clock: one that is due there is due here, and says what it waited for.
            for run in [run for run in group if run.deadline < now + 0.001]:
                self._expire(run)
        for key in self._keys():
            self._try(key)
        waiting = [run.deadline for group in self._groups.values() for run in group]
        if self._backlog_keys():
            self._set_timer(min([now + BACKLOG_CHECK_S, *waiting]))
        elif waiting:
            self._set_timer(min([now + CHECK_S, *waiting]))
