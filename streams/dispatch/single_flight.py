"""Equal tasks under way at once in a home: one of them is called, the others wait for its answer.

In: jobs with a cache key and no cached answer. Out: whether a job leads (is called) or waits; who shares an answer; who leads
next when a leader ends without one; who waited past its deadline. Bounded: what finds no place among those that wait is
called itself. It writes nothing and calls nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from streams.dispatch.jobs import Job

MAX_WAITING = 64
"""Jobs of one home that wait for others: they count as in flight, and must not take the place of other agents' tasks."""


@dataclass(slots=True)
class _Flight:
    leader: Job
    waiting: list[tuple[Job, asyncio.TimerHandle]] = field(default_factory=list)


class SingleFlight:
    """`lead` is told of a job that must find its own way now, `late` of one whose deadline passed; both must end in `left`."""

    def __init__(self, lead: Callable[[Job], None], late: Callable[[Job], None]) -> None:
        self._lead = lead
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._flights: dict[str, _Flight] = {}
        self._waiting = 0
        self._closed = False

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._waiting

    def joins(self, job: Job) -> bool:
        """Whether the job waits for an equal one now; it has a ticket, whose deadline holds. If not, it is to be called."""
        if job.key is None or job.ticket is None:
            return False
        flight = self._flights.get(job.key)
        if flight is None:
            self._flights[job.key] = _Flight(job)
        if flight is None or flight.leader is job or self._waiting >= MAX_WAITING:
            return False
        flight.waiting.append((job, self._loop.call_at(job.ticket.deadline, self._late, job)))
        self._waiting += 1
        return True

    def waits(self, job: Job) -> bool:
        """Whether it waits for another."""
        flight = self._flights.get(job.key or "")
        return flight is not None and any(one is job for one, _ in flight.waiting)

    def landed(self, job: Job) -> list[Job]:
        """The job has an answer: those that share it, in the order they came."""
        flight = self._flights.get(job.key or "")
        if flight is None or flight.leader is not job:
            return []
        del self._flights[job.key or ""]
        return [self._out(waiting) for waiting in flight.waiting]

    def left(self, job: Job) -> None:
        """The job has ended or goes elsewhere. If it led, the first that waits leads: soon, not from within this call."""
        key = job.key or ""
        flight = self._flights.get(key)
        if flight is None:
            return
        if flight.leader is not job:
            for place, waiting in enumerate(flight.waiting):
                if waiting[0] is job:
                    self._out(flight.waiting.pop(place))
                    break
        elif flight.waiting:
            flight.leader = self._out(flight.waiting.pop(0))
            self._loop.call_soon(self._promote, key, flight.leader)
        else:
            del self._flights[key]

    def clear(self) -> None:
        """Forget everything; nobody is told."""
        self._closed = True
        for flight in self._flights.values():
            for waiting in flight.waiting:
                self._out(waiting)
        self._flights.clear()

    def _promote(self, key: str, job: Job) -> None:
        flight = self._flights.get(key)
        if not self._closed and flight is not None and flight.leader is job:
            self._lead(job)

    def _out(self, waiting: tuple[Job, asyncio.TimerHandle]) -> Job:
        waiting[1].cancel()
        self._waiting -= 1
        return waiting[0]
