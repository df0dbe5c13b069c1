"""One agent under this worker: its lane, its calls, its timer. The guarded call lives here.

In: tickets. Out, through the hooks and exactly once for each ticket: an answer or an `AgentError`.
The lane (pure) decides what begins and what is given up; a transport makes the call; this file only carries between them:
one asyncio task per call under way, none per ticket that waits, one timer per agent. It writes to no topic.

The layers, from outside: the task's deadline, over all tries and waits; retries, within the agent's budget; then for each try its
place in the lane (concurrency), the circuit, a turn of the rate limit; the time one try may take; hedging; the transport.
What no layer let through was no try: it costs no turn, no permit and no retry.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agents_io.errors import (
    AgentError,
    CallTimeout,
    Cancelled,
    CircuitOpen,
    Expired,
    InternalError,
    RateLimited,
    RushedTimeout,
)
from agents_io.hedging import race
from agents_io.rules.breaker import Outcome
from agents_io.rules.lane import Doom, Lane, Start
from agents_io.rules.retry import RetryConfig, delay_s
from agents_io.ticket import Hooks, Ticket, Watch
from agents_io.track import Track
from agents_io.transport import Answer, Call, Transport
from schemas.messages import AgentRegistration

log = structlog.get_logger(__name__)


ASK_AGAIN_S = 0.2
"""How soon to ask again when no call may begin."""
FAIR_S = 1.0
"""Time in which any agent is expected to answer; with less, and less than half of what its task allows, it is not blamed."""


def _rushed(ticket: Ticket, call: Call) -> bool:
    return call.timeout_s < min(FAIR_S, (ticket.deadline - ticket.taken_at) / 2)


class Caller:
    """Calls one agent within its limits."""

    def __init__(
        self,
        agent: AgentRegistration,
        lane: Lane[Ticket],
        transport: Transport,
        retry: RetryConfig,
        hooks: Hooks,
        rng: random.Random,
        attempt_timeout_s: float | None = None,
        track: Track | None = None,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_begin`: asked before each call; while it is false, calls wait."""
        self.agent = agent
        self.lane = lane
        self.track = track or Track()
        self.changed = False
        """Whether breaker or limiter changed; reset by whoever keeps their state."""
        self._transport = transport
        self._retry = retry
        self._hooks = hooks
        self._rng = rng
        self._attempt_timeout_s = attempt_timeout_s
        self._may_begin = may_begin
        self._loop = asyncio.get_running_loop()
        self._calls: dict[Ticket, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._held = False
        self._turning = False

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def submit(self, ticket: Ticket, force: bool = False) -> bool:
        """Queue a ticket; False when the lane is full. `force`: also then."""
        now = self._loop.time()
        if not self.lane.push(ticket, now=now, deadline=ticket.deadline, priority=ticket.priority, force=force):
            return False
        self.turn()
        return True

    def status(self, ticket: Ticket, now: float) -> str | None:
        """What a ticket waits for: `calling`, what blocks it in the lane, its `turn`, or None if it is not here."""
        if ticket in self._calls:
            return "calling"
        if not self.lane.holds(ticket):
            return None
        return self.lane.blocked_by(now, ticket) or "turn"

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket wherever it is: waiting, or being called (the connection is closed)."""
        ticket.cancelled = True
        if self.lane.remove(ticket):
            self._hooks.finished(ticket, Cancelled("the task was cancelled"))
        elif ticket in self._calls:
            # A task cancelled before its first step runs nothing, not even its clean-up: let it begin first.
            self._loop.call_soon(self._cancel_call, ticket)

    def _cancel_call(self, ticket: Ticket) -> None:
        if self.lane.remove(ticket):  # the call failed in the meantime, and the next try waits
            self._hooks.finished(ticket, Cancelled("the task was cancelled"))
        elif (call := self._calls.get(ticket)) is not None:
            call.cancel()

    def hold(self) -> None:
        """Begin no further call."""
        self._held = True
        self._stop_timer()

    def close(self) -> None:
        """Cancel the calls under way and forget what waits; no hook is called for them."""
        self.hold()
        for call in list(self._calls.values()):
            call.cancel()
        self.lane.drain()

    def turn(self) -> None:
        """Let the lane decide what happens now, and when to ask it again."""
        if self._held or self._turning:
            return
        self._turning = True
        try:
            now = self._loop.time()
            for ticket, doom in self.lane.doomed(now):
                self._hooks.finished(ticket, self._doom(ticket, doom))
            may_begin = self._may_begin()
            for start in self.lane.poll(now) if may_begin else ():
                self._begin(start)
            self._tell_transitions()
            self._set_timer(
                self.lane.next_wakeup(now) if may_begin or not self.lane.waiting else now + ASK_AGAIN_S, now
            )
        finally:
            self._turning = False

    def _tell_transitions(self) -> None:
        for transition in self.lane.take_transitions():
            self._hooks.circuit(self.agent.id, transition)

    def _set_timer(self, at: float | None, now: float) -> None:
        if at is None:
            return
        if self._timer is not None and now < self._rings_at <= at:
            return  # it rings early, finds nothing to do and is set again: cheaper than moving it for each ticket
        self._stop_timer()
        # Kept here: of a time that has passed meanwhile uvloop makes a handle that does not know when.
        self._rings_at = max(at, now + 0.001)
        self._timer = self._loop.call_at(self._rings_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.turn()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _doom(self, ticket: Ticket, doom: Doom) -> AgentError:
        if ticket.failure is not None:
            return ticket.failure
        waited = f"after waiting {self._loop.time() - ticket.taken_at:.1f} s"
        if doom == "circuit_open":
            return CircuitOpen(f"the circuit of agent {self.agent.id!r} stays open past the task's deadline")
        if doom == "rate_limited":
            return RateLimited(f"the rate limit of agent {self.agent.id!r} leaves no turn before the task's deadline")
        return Expired(f"the deadline passed {waited} for agent {self.agent.id!r}; no call was made")

    def _begin(self, start: Start[Ticket]) -> None:
        ticket = start.item
        ticket.last_call_at = start.started_at
        if ticket.first_call_at == 0.0:
            ticket.first_call_at = start.started_at
        if ticket.attempt == 0:
            self.track.budget.first(start.started_at)
            self._hooks.started(ticket)
        ticket.attempt += 1
        self.changed = True
        self._calls[ticket] = self._loop.create_task(self._call(start))

    async def _call(self, start: Start[Ticket]) -> None:
        ticket = start.item
        end: Answer | AgentError
        first: Answer | AgentError | None
        try:
            end, first = await self._answered(start)
        except asyncio.CancelledError:
            self._leave(start, None)
            if (
                not self._held
            ):  # somebody asked for it, or else a library cancelled us: the ticket must end all the same
                asked = ticket.cancelled
                self._hooks.finished(
                    ticket, Cancelled("the task was cancelled") if asked else InternalError("the call was cut off")
                )
                self.turn()
                return
            raise
        except Exception as error:
            log.exception("a transport raised something that is no AgentError", agent_id=self.agent.id)
            end = first = InternalError(f"the call failed inside the worker: {type(error).__name__}")
        self._leave(start, first)
        self._settle(ticket, end)
        self.turn()

    async def _answered(self, start: Start[Ticket]) -> tuple[Answer | AgentError, Answer | AgentError | None]:
        """The end of a try, and what came of its first call by itself: None if that was cut off for a second one."""
        patience_s = self._patience_s(start.item)
        calling = self._one(start) if start.item.watch is None else self._watched(start, start.item.watch, False)
        if patience_s is None:
            try:
                answer = await calling
            except AgentError as error:
                return error, error
            return answer, answer
        return await race(calling, patience_s, lambda: self._beside(start))

    async def _watched(self, start: Start[Ticket], watch: Watch, hedged: bool) -> Answer:
        """One call, of which somebody is told."""
        attempt = watch.begins(self.agent, start.item.attempt, hedged)
        try:
            answer = await self._one(start, attempt.headers)
        except BaseException as error:
            attempt.ended(error)
            raise
        attempt.ended(answer)
        return answer

    async def _one(self, start: Start[Ticket], headers: tuple[tuple[str, str], ...] | None = None) -> Answer:
        """One call. `headers`: in place of the ticket's."""
        call = self._attempt(start.item, start.started_at, headers)
        try:
            return await self._transport.call(self.agent, call)
        except CallTimeout as error:
            if not _rushed(start.item, call):
                raise
            left_ms = call.timeout_s * 1000
            raise RushedTimeout(f"{error.message}; waiting had left the call {left_ms:.0f} ms") from None

    def _patience_s(self, ticket: Ticket) -> float | None:
        """After how long a second call may be made beside the first; None: never."""
        limits = self.agent.limits
        if not (ticket.hedge or (limits is not None and limits.hedge)):
            return None
        return self.track.latency.p95_s()

    def _beside(self, start: Start[Ticket]) -> Coroutine[Any, Any, Answer] | None:
        """A second call, if the lane and the budget allow one."""
        now = self._loop.time()
        if self._held or not self._may_begin() or not self.track.budget.allows(now):
            return None
        second = self.lane.start_beside(start, now)
        if second is None:
            return None
        self.track.budget.spend(now)
        self.track.hedges += 1
        self.changed = True
        return self._second(second)

    async def _second(self, start: Start[Ticket]) -> Answer:
        end: Answer | AgentError | None = None
        try:
            watch = start.item.watch
            end = await (self._one(start) if watch is None else self._watched(start, watch, True))
            return end
        except AgentError as error:
            end = error
            raise
        finally:
            self._count(start, end)

    def _attempt(self, ticket: Ticket, now: float, headers: tuple[tuple[str, str], ...] | None) -> Call:
        left_s = ticket.deadline - now
        if self._attempt_timeout_s is not None:
            left_s = min(left_s, self._attempt_timeout_s)
        headers = ticket.headers if headers is None else headers
        return Call(ticket.task_id, ticket.idempotency_key, ticket.body, left_s, headers, ticket.pattern_name)

    def _leave(self, start: Start[Ticket], end: Answer | AgentError | None) -> None:
        del self._calls[start.item]
        self._count(start, end)

    def _count(self, start: Start[Ticket], end: Answer | AgentError | None) -> None:
        """What a call says of its agent. None: it was cut off, which says nothing."""
        now = self._loop.time()
        outcome: Outcome = "neutral"
        pause_s, confidence = None, 0.0
        if isinstance(end, AgentError):
            outcome = "failure" if end.counts_against_agent else "neutral"
            pause_s = end.retry_after_s
        elif end is not None:
            outcome, confidence = "success", end.confidence
        self.lane.finish(start, outcome, now, pause_s)
        self.track.ended(outcome, now - start.started_at, confidence, now)
        self.changed = True  # after a success too: a call counts from its end, and its begin may be committed already
        self._tell_transitions()

    def _settle(self, ticket: Ticket, end: Answer | AgentError) -> None:
        """The end of a call: the end of the ticket, or another try if that may help and can still begin in time.

        The budget keeps second tries off an agent in trouble; behind an open circuit they are kept off already.
        """
        if isinstance(end, AgentError) and end.retryable and ticket.attempt <= ticket.max_retries:
            if self._held:
                return  # the next owner of the partition tries again
            wait_s = delay_s(ticket.attempt - 1, self._retry, self._rng, end.retry_after_s)
            now = self._loop.time()
            due = now + wait_s
            shut_until = self.lane.breaker.shut_until(now)
            if due < ticket.deadline <= shut_until:
                end.message += "; not tried again: the agent's circuit stays open past the task's deadline"
            elif due < ticket.deadline and shut_until <= due and not self.track.budget.spend(now):
                end.message += "; not tried again: too many of the agent's calls are second tries already"
            elif due < ticket.deadline:
                ticket.failure = end
                self._hooks.retrying(ticket, wait_s)
                self.lane.push(
                    ticket,
                    now=now,
                    deadline=ticket.deadline,
                    priority=ticket.priority,
                    not_before=due,
                    force=True,
                )
                return
        self._hooks.finished(ticket, end)
