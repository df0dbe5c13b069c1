"""The guarded call: one agent under this worker, with its queue, its calls and its timer.

In: pending calls. Out, through `CallEvents` and exactly once for each: an answer or an `AgentError`.
The queue (pure) decides which attempt begins and which task expires; a transport makes the call; this file only carries between
them: one asyncio task per call under way, none per task that waits, one timer per agent. It writes to no topic.

The layers, from outside: the task's deadline, over everything; retries, within the agent's budget; then for each attempt a slot
(concurrency), the circuit, a turn of the rate limit; the attempt's own timeout; hedging; the transport. Waiting for any of them
runs no clock but the deadline's and uses up no attempt. A task whose agent is asked several times (`sampling.py`) waits as one
item for its first turn; from then on its samples wait and are called one by one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import structlog

from agents_io.calling.call_stats import CallStats
from agents_io.calling.clock_lag import clock_lag_s
from agents_io.calling.hedging import race
from agents_io.calling.one_call import NotBegun, one_call
from agents_io.calling.pending_call import CallEvents, PendingCall
from agents_io.calling.rules.agent_queue import AgentQueue, Attempt, Block
from agents_io.calling.rules.breaker import Outcome
from agents_io.calling.rules.retry import RetryConfig, delay_s
from agents_io.calling.sampling import Item, Sample, SampleGroups
from agents_io.errors import (
    AgentError,
    CallTimeout,
    Cancelled,
    ConnectionFailed,
    ConnectionWasClosing,
    Expired,
    InternalError,
)
from agents_io.rules.statuses import StillRunning
from agents_io.transport import Answer, Transport
from schemas.messages import AgentRegistration

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=PendingCall)

MAX_TIMER_S = 3600.0
"""Timers are set for at most this long; the queue is asked again then."""
NOT_CURRENT_RECHECK_S = 0.1
UNANSWERED = (CallTimeout, ConnectionFailed, Expired, InternalError)
"""Errors after which, as after a call that was cut off, the request may still be on its way to the agent."""
WAITED_FOR: dict[Block | None, str] = {
    "circuit_open": "its circuit stays open until after the deadline",
    "rate_limited": "its rate limit has no turn before the deadline",
    "retry_after": "it asked for a pause that ends after the deadline (Retry-After)",
}


class Caller(Generic[R]):
    """Calls one agent within its limits."""

    def __init__(
        self,
        *,
        agent: AgentRegistration,
        queue: AgentQueue[Item[R]],
        transport: Transport,
        retry: RetryConfig,
        events: CallEvents[R],
        rng: random.Random,
        stats: CallStats | None = None,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_begin`: whether this worker still owns the agent's partition. No call begins while that is unknown."""
        self.agent = agent
        self.queue = queue
        self.stats = stats or CallStats()
        self.changed = False
        """Whether breaker or limiter changed; reset by the code that stores their state."""
        self._transport = transport
        self._retry = retry
        self._events = events
        self._rng = rng
        self._may_begin = may_begin
        self._loop = asyncio.get_running_loop()
        self._clock_lag_s = clock_lag_s(self._loop)
        self._calls: dict[Item[R], asyncio.Task[None]] = {}
        self._groups = SampleGroups(queue, self._cut_off)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._held = False
        self._advancing = False

    @property
    def running(self) -> int:
        return len(self._calls)

    def submit(self, run: R) -> None:
        now = self._loop.time()
        self.queue.push(run, now=now, deadline=run.deadline, timeout_s=run.timeout_s, priority=run.priority)
        self.advance()

    def waits_for(self, run: R, now: float) -> str | None:
        """What a task waits for: `calling`, the limit that blocks it in the queue, its `turn`; None if the task is not
        here.
        """
        if run in self._calls or run in self._groups:
            return "calling"
        if not self.queue.holds(run):
            return None
        return self.queue.blocked_by(now, run) or "turn"

    def waiting(self) -> list[R]:
        """The tasks that wait for their first call or the next attempt, in order of arrival; not those with samples under way."""
        return [item for item in self.queue.items() if not isinstance(item, Sample)]

    def last(self, eligible: Callable[[R], bool]) -> R | None:
        """Of the eligible tasks that wait, the one whose turn comes last."""
        found = self.queue.last(lambda item: not isinstance(item, Sample) and eligible(item))
        return None if isinstance(found, Sample) else found

    def cancel(self, run: R) -> None:
        """End a task wherever it is: waiting, or being called (the connection is closed)."""
        run.cancelled = True
        if self.queue.remove(run) or self._groups.drop(run):
            self._events.on_finished(run, Cancelled("the task was cancelled"))
        else:
            self._cut_off(run)

    def _cut_off(self, item: Item[R]) -> None:
        if item in self._calls:
            # An asyncio task cancelled before its first step runs nothing, not even its clean-up: let it begin first.
            self._loop.call_soon(self._cancel_call, item)

    def _cancel_call(self, item: Item[R]) -> None:
        if self.queue.remove(item):  # the call failed in the meantime, and the next attempt waits
            self._finish(item, Cancelled("the task was cancelled"))
        elif (call := self._calls.get(item)) is not None:
            call.cancel()

    def _finish(self, item: Item[R], end: Answer | AgentError) -> None:
        """Finish an item. A sample's end becomes its task's end once enough samples have ended."""
        if not isinstance(item, Sample):
            self._events.on_finished(item, end)
        elif (decided := self._groups.ended(item, end)) is not None:
            if isinstance(decided, Answer):
                self.stats.rated(decided.confidence)
            self._events.on_finished(item.run, decided)

    def hold(self) -> None:
        """Begin no further call."""
        self._held = True
        self._stop_timer()

    def close(self) -> None:
        """Cancel the calls under way and forget what waits; nothing is reported for them."""
        self.hold()
        for call in list(self._calls.values()):
            call.cancel()
        self.queue.drain()
        self._groups.clear()

    def advance(self) -> None:
        """Start the calls that may begin now, end the tasks that expired, and set the timer for the next change."""
        if self._held or self._advancing:
            return
        self._advancing = True
        try:
            now = self._loop.time()
            for item, block in self.queue.expired(now):
                self._finish(item, self._expired(item, block, now))
            if not self._may_begin():
                self._set_timer(now + NOT_CURRENT_RECHECK_S if self.queue.waiting else None, now)
                return
            source = self.agent.confidence
            while attempts := self.queue.poll(now):
                opened = source is not None and any([self._groups.open(attempt, source, now) for attempt in attempts])
                for attempt in attempts:
                    self._begin(attempt)
                if not opened:
                    break
            self._report_transitions()
            self._set_timer(self.queue.next_wakeup(now), now)
        finally:
            self._advancing = False

    def _report_transitions(self) -> None:
        for transition in self.queue.take_transitions():
            self._events.on_circuit(self.agent.id, transition)

    def _set_timer(self, at: float | None, now: float) -> None:
        if at is None:
            return
        at = min(at, now + MAX_TIMER_S)
        if self._timer is not None and now < self._timer_at <= at:
            return  # It fires early, finds nothing to do and is set again: cheaper than moving it for each task.
        self._stop_timer()
        # Kept here: for a time that has passed meanwhile, uvloop makes a handle without its time.
        self._timer_at = max(at, now + 0.001)
        self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.advance()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self, run: PendingCall, block: Block | None, now: float) -> Expired:
        agent = f"agent {self.agent.id!r}"
        if block is not None:
            reason = f"no call to {agent} can begin in time: {WAITED_FOR[block]}"
        else:
            waited_for = (self.queue.closed_by(now) or "its turn").replace("_", " ")
            reason = f"the deadline passed while the task waited for {agent} ({waited_for})"
        if run.failure is not None:
            reason += f"; its last attempt failed: {run.failure.code}: {run.failure.message}"
        return Expired(reason)

    def _begin(self, attempt: Attempt[Item[R]]) -> None:
        item = attempt.item
        run: R = item.run if isinstance(item, Sample) else item
        run.last_call_at = attempt.started_at
        if run.first_call_at == 0.0:
            run.first_call_at = attempt.started_at
        if item.calls == 0:
            self.queue.budget.first(attempt.started_at)
        is_first = run.calls == 0
        if is_first:
            self._events.on_first_call(run)
        item.calls += 1
        if item is not run and (is_first or item.calls > 1):
            run.calls += 1  # the first one, and retries: other samples do not count
        self.changed = True
        self._calls[item] = self._loop.create_task(self._call(attempt))

    async def _call(self, attempt: Attempt[Item[R]]) -> None:
        run = attempt.item
        end: Answer | AgentError
        first: Answer | AgentError | None
        try:
            end, first = await self._answered(attempt)
        except asyncio.CancelledError:
            self._leave(attempt, None)
            # Requested, or a library cancelled us: the task must end in both cases.
            if not self._held:
                cancelled = Cancelled("the task was cancelled")
                self._finish(run, cancelled if run.cancelled else InternalError("the call was cut off"))
                self.advance()
                return
            raise
        except Exception as error:
            log.exception("a transport raised an error that is not an AgentError", agent_id=self.agent.id)
            end = first = InternalError(f"the call failed inside the worker: {type(error).__name__}")
        self._leave(attempt, first)
        self._settle(attempt, end)
        self.advance()

    async def _answered(self, attempt: Attempt[Item[R]]) -> tuple[Answer | AgentError, Answer | AgentError | None]:
        """The outcome of an attempt, and that of its first call alone: None if the first call was cut off for a second
        one.
        """
        patience_s = self._patience_s(attempt.item)
        calling = one_call(self._transport, self.agent, attempt, self._may_begin)
        if patience_s is None:
            try:
                answer = await calling
            except AgentError as error:
                return error, error
            return answer, answer
        return await race(calling, patience_s, lambda: self._beside(attempt))

    def _patience_s(self, run: PendingCall) -> float | None:
        """Seconds after which a second call may start beside the first; None: never."""
        limits = self.agent.limits
        if isinstance(run, Sample):
            return None  # other samples are under way
        if not (run.hedge or (limits is not None and limits.hedge)):
            return None
        return self.stats.latency.p95_s()

    def _beside(self, attempt: Attempt[Item[R]]) -> Coroutine[Any, Any, Answer] | None:
        """Start a second call, if queue and budget allow one."""
        now = self._loop.time()
        if self._held or not self._may_begin() or not self.queue.budget.allows(now):
            return None
        second = self.queue.start_beside(attempt, now)
        if second is None:
            return None
        self.queue.budget.spend(now)
        self.stats.hedges += 1
        self.changed = True
        return self._second(second)

    async def _second(self, attempt: Attempt[Item[R]]) -> Answer:
        end: Answer | AgentError | None = None
        try:
            end = await one_call(self._transport, self.agent, attempt, self._may_begin, hedged=True)
            return end
        except AgentError as error:
            end = error
            raise
        finally:
            self._count(attempt, end)

    def _leave(self, attempt: Attempt[Item[R]], end: Answer | AgentError | None) -> None:
        del self._calls[attempt.item]
        self._count(attempt, end)

    def _count(self, attempt: Attempt[Item[R]], end: Answer | AgentError | None) -> None:
        """Count a call for or against its agent. None: the call was cut off and counts for neither."""
        now = self._loop.time()
        # Promises to an agent (its limit, a hold, Retry-After) count from the end of the call, which must not be before
        # the true one.
        ended = now + self._clock_lag_s
        outcome: Outcome = "neutral"
        pause_s: float | None = None
        confidence: float | None = None
        if isinstance(end, AgentError):
            # An agent still busy with an earlier attempt of this task takes others.
            pause_s = None if isinstance(end, StillRunning) else end.retry_after_s
            if end.counts_against_agent:
                outcome, self.stats.failure = "failure", (end.code, end.message)
        elif end is not None:
            outcome, confidence = "success", None if self.agent.answers_unrated else end.confidence
        answered = end is not None and not isinstance(end, UNANSWERED)
        self.queue.finish(attempt, outcome, ended, pause_s, answered)
        self.stats.ended(outcome, now - attempt.started_at, confidence, now)
        # Also after a success: a call counts from its answer, and its begin may be committed already.
        self.changed = True
        self._report_transitions()

    def _settle(self, attempt: Attempt[Item[R]], end: Answer | AgentError) -> None:
        """End the task, or queue another attempt if one may help and can begin before the deadline."""
        item = attempt.item
        run: R = item.run if isinstance(item, Sample) else item
        if not isinstance(end, AgentError) or not end.retryable:
            self._finish(item, end)
            return
        if isinstance(item, Sample) and item.run not in self._groups:
            return
        probe = attempt.permit.probe and end.counts_against_agent
        not_begun = isinstance(end, NotBegun)
        # Where the agent asks for a wait: waiting uses up no attempt.
        free = probe or not_begun or end.retry_after_s is not None
        run.attempts += not free
        if run.attempts > run.max_retries:
            self._finish(item, end)
            return
        if self._held:
            return  # the next owner of the partition tries again
        now = self._loop.time()
        at_once = not_begun or isinstance(end, ConnectionWasClosing)
        wait_s = 0.0 if at_once else delay_s(item.calls - 1, self._retry, self._rng, end.retry_after_s)
        if probe:
            # The circuit is open again: a task with fewer failed probes tries it next.
            wait_s += max(0.0, self.queue.shut_until(now) - now)
        if max(now + wait_s, self.queue.shut_until(now)) >= run.deadline:
            reason = "not retried: the task's deadline passes before"
            # Waiting would have used up no attempt, so the deadline ends the task, not the failure.
            unable = Expired(f"{reason}; its last attempt failed: {end.code}: {end.message}")
            end.message += f"; {reason}"
            self._finish(item, unable if free else end)
            return
        item.failure = end
        item.lost_connection = item.lost_connection or isinstance(end, ConnectionFailed)
        self._events.on_retry(run, wait_s)
        self.queue.push(
            item,
            now=now,
            deadline=run.deadline,
            timeout_s=run.timeout_s,
            priority=run.priority,
            not_before=now + wait_s,
            retry=not (free or at_once),
            place=attempt.place,
            failed_probes=attempt.failed_probes + 1 if probe else 0,
        )
