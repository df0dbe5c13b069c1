"""Equal tasks under way in a partition share one call: one task is called, the others wait for its answer.

In: runs with a cache key and no cached answer. Out: whether a run leads (is called) or follows; which runs share an
answer; which one leads next when a leader ends or moves without one; which expired. Bounded: a run for which there is
no room among the followers is called itself. It writes nothing and calls no agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isinf

from streams.dispatch.task_run import TaskRun

MAX_FOLLOWERS = 64
"""Runs of one partition that wait for others: they count as in flight, and must not displace other agents' tasks."""


@dataclass(slots=True)
class _Flight:
    leader: TaskRun
    followers: dict[TaskRun, asyncio.TimerHandle | None] = field(default_factory=dict)


class SingleFlight:
    """`lead` is called with a run that must be called itself now, `expire` with one whose deadline passed; both must
    end in `left`.
    """

    def __init__(self, lead: Callable[[TaskRun], None], expire: Callable[[TaskRun], None]) -> None:
        self._lead = lead
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._flights: dict[str, _Flight] = {}
        self._following = 0
        self._closed = False

    def __len__(self) -> int:
        """The number of followers."""
        return self._following

    def follows(self, run: TaskRun) -> bool:
        """Whether the run waits for an equal one from now on. If not, call it."""
        if run.cache_key is None:
            return False
        flight = self._flights.get(run.cache_key)
        if flight is None:
            self._flights[run.cache_key] = _Flight(run)
        if flight is None or flight.leader is run or self._following >= MAX_FOLLOWERS:
            return False
        timer = None if isinf(run.deadline) else self._loop.call_at(run.deadline, self._expire, run)
        flight.followers[run] = timer
        self._following += 1
        return True

    def waits(self, run: TaskRun) -> bool:
        """Whether it waits for another."""
        flight = self._flights.get(run.cache_key or "")
        return flight is not None and run in flight.followers

    def answered(self, run: TaskRun) -> list[TaskRun]:
        """The run has an answer. Returns the runs that share it, in order of arrival."""
        flight = self._flights.get(run.cache_key or "")
        if flight is None or flight.leader is not run:
            return []
        del self._flights[run.cache_key or ""]
        followers = list(flight.followers)
        for follower in followers:
            self._remove(flight, follower)
        return followers

    def left(self, run: TaskRun) -> None:
        """The run has ended, waits on its topic or moved. If it led, the first follower leads: soon, not at once."""
        key = run.cache_key or ""
        flight = self._flights.get(key)
        if flight is None:
            return
        if flight.leader is not run:
            self._remove(flight, run)
        elif flight.followers:
            flight.leader = next(iter(flight.followers))
            self._remove(flight, flight.leader)
            self._loop.call_soon(self._promote, key, flight.leader)
        else:
            del self._flights[key]

    def clear(self) -> None:
        """Forget everything; nothing is reported."""
        self._closed = True
        for flight in self._flights.values():
            for follower in list(flight.followers):
                self._remove(flight, follower)
        self._flights.clear()

    def _promote(self, key: str, run: TaskRun) -> None:
        flight = self._flights.get(key)
        if not self._closed and flight is not None and flight.leader is run:
            self._lead(run)

    def _remove(self, flight: _Flight, run: TaskRun) -> None:
        if run not in flight.followers:
            return
        timer = flight.followers.pop(run)
        if timer is not None:
            timer.cancel()
        self._following -= 1
