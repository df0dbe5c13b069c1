"""dispatch: `tasks`, `dispatch`, `parked` -> agents -> `results`, `data-points`, `events`; bad input -> dead letters.

In: records of one home partition. Each ends in exactly one `home.complete`: a result, a forward to the agent's home, or a
dead letter. Out of transaction go only progress events. What waits for an agent waits in that agent's lane (`agents_io`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from aiokafka.structs import ConsumerRecord

from agents_io.caller import Caller
from agents_io.errors import AgentError, AnswerTooLarge, BadResponse, Cancelled, Expired, InternalError
from agents_io.rules.breaker import Transition
from agents_io.ticket import Ticket
from agents_io.transport import Answer
from schemas.codec import Rejected, dumps, header
from schemas.messages import AgentRegistration
from streams.dispatch.home_memory import HomeMemory
from streams.dispatch.job_book import JobBook
from streams.dispatch.jobs import Job, read_job, ticket_for
from streams.dispatch.outcomes import Outcomes
from streams.dispatch.parking_lot import ParkingLot
from streams.dispatch.parts import Parts
from streams.dispatch.queues import Parking, Queues
from streams.dispatch.router import Router
from streams.dispatch.single_flight import SingleFlight
from streams.dispatch.spans import TaskSpans
from streams.engine.home import Home
from streams.rules.records import (
    DUE_HEADER,
    MOVED_HEADER,
    TASK_HEADER,
    Letter,
    Output,
    Success,
    own_header,
)

log = structlog.get_logger(__name__)

MAX_PARKED_S = 3600.0


class DispatchHandler:
    """The tasks of one home partition, on their way to the agents that live there."""

    def __init__(self, home: Home, parts: Parts, kept: Iterable[bytes] = ()) -> None:
        """`kept`: what earlier owners of this home wrote to the state topic."""
        self._home = home
        self._parts = parts
        self._memory = HomeMemory(home.number, parts.settings, parts.wall_ms, kept, parts.cleared)
        self._queues = Queues(parts.callers, parts.wall_ms, self._parked, self._memory.guard)
        self._book = JobBook(self._memory.seen, parts.wall_ms)
        self._tell = Outcomes(parts)
        self._spans = TaskSpans(parts.tracing, home)
        self._router = Router(home.number, parts, self._tell, self)
        self._loop = asyncio.get_running_loop()
        self._lot = ParkingLot(self._back, home.wake, self._queues.full, parts.wall_ms)
        self._queues.aside = self._lot
        self._flights = SingleFlight(self._lead, self._overdue)
        self._held = False
        self._default_timeout_ms = parts.settings.dispatch.default_timeout

    # What the home asks

    def room(self, source: str) -> bool:
        """False while tasks are held back since their lane is full; of `parked`, while as many are held as may be."""
        return self._lot.room if source == "parked" else self._queues.room

    def resting(self) -> int:
        """Parked tasks that are not due."""
        return len(self._lot)

    def changes(self) -> list[Output]:
        """What another owner would have to know, for the state topic."""
        return self._memory.changes(self._queues.callers.values())

    def running(self) -> int:
        """Calls under way."""
        return sum(caller.running for caller in self._queues.callers.values())

    def hold(self) -> None:
        """Begin no further call."""
        self._held = True
        self._router.hold()
        for caller in self._queues.callers.values():
            caller.hold()

    def close(self) -> None:
        """Cancel whatever runs; nothing more is completed."""
        self._held = True
        self._router.close()
        self._queues.close()
        self._lot.close()
        self._flights.clear()
        self._book.clear()

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """What a record in flight waits for: taskId, agentId, age (ms since intake), reason. None if it is not here."""
        job = self._book.at(source, offset)
        if job is None:
            return {"reason": "parked"} if source == "parked" else None
        now = self._loop.time()
        reason = "looking_for_agent"
        if self._flights.waits(job):
            reason = "equal_task_under_way"
        elif job.ticket is not None and job.agent_id is not None:
            reason = self._queues.callers[job.agent_id].status(job.ticket, now) or "queue_full"
        return {
            "taskId": job.task.id,
            "agentId": job.agent_id,
            "age": round((now - job.came) * 1000),
            "reason": reason,
        }

    def take(self, source: str, record: ConsumerRecord) -> None:
        """One record: decode it, then find its agent. Whatever goes wrong costs this record alone."""
        letter = Letter(
            source, record.partition, record.offset, record.key, record.value, record.headers, record.timestamp
        )
        if source == "parked" and self._arrived(letter):
            return
        due_ms = own_header(record.headers, DUE_HEADER) if source == "parked" else None
        wait_s = 0.0 if due_ms is None else (due_ms - self._parts.wall_ms()) / 1000
        if wait_s > 0.005:
            self._lot.hold(letter, min(wait_s, MAX_PARKED_S))
        else:
            self.guarded(letter, lambda: self._begin(source, letter))

    def _back(self, letter: Letter) -> None:
        """A parked task is due."""
        if not self._held:
            self.guarded(letter, lambda: self._begin(letter.topic, letter))

    def guarded(self, letter: Letter, step: Callable[[], None]) -> None:
        """A record must end, also when our own code fails on it: a task as a failure, anything else as a dead letter."""
        try:
            step()
        except Rejected as rejected:
            self._refuse(letter, rejected)
        except Exception as error:
            log.exception("a record broke the worker's own code", topic=letter.topic, offset=letter.offset)
            self._broke(letter, f"internal error: {type(error).__name__}")

    def _broke(self, letter: Letter, why: str) -> None:
        """A fault of ours. Who waits for the task is told, unless telling is what broke."""
        job = self._book.at(letter.topic, letter.offset)
        try:
            if job is not None and self.claim(job, job.task.target or ""):
                self.fail(job, InternalError(why), job.ticket)
        except Exception:
            job = None
        if job is None:
            self._refuse(letter, Rejected("dispatch", why))

    def _refuse(self, letter: Letter, rejected: Rejected) -> None:
        job, outputs = self._book.at(letter.topic, letter.offset), self._tell.refused(letter, rejected)
        self._spans.refused(letter, job, rejected.stage, outputs)
        if job is None:
            self._home.complete(letter.topic, letter.offset, outputs)
            return
        self._book.disclaim(job)  # no answer was given: a replay of this letter is no duplicate
        self.end(job, outputs)

    def end(self, job: Job, outputs: list[Output], moved: bool = False) -> None:
        """A record's end. `moved`: the task goes on elsewhere, so that its id is still free there."""
        self._flights.left(job)
        if self._book.end(job, outputs, moved):
            self._spans.end(job, outputs)
            self._home.complete(job.source, job.offset, outputs)

    def release(self, job: Job, scope: str | None) -> None:
        """It is not answered in this scope after all; None: in none."""
        if scope is None:
            self._book.disclaim(job)
        else:
            self._book.release(job, scope)

    def rest(self, job: Job, wait_s: float) -> None:
        """It came from `parked`, and is held again as if it had not begun."""
        self._book.rest(job)
        self._lot.hold(job.letter, wait_s)

    def claim(self, job: Job, scope: str, outlives: bool = False) -> bool:
        """Whether this record is the one that answers its task id; any other is told to be a duplicate, and ends here."""
        if self._book.claim(job, scope, outlives):
            return True
        self.end(job, self._tell.duplicate(job))
        return False

    def _begin(self, source: str, letter: Letter) -> None:
        now_ms = self._parts.wall_ms()
        job = read_job(letter, self._loop.time(), now_ms, self._default_timeout_ms)
        self._spans.begin(job)
        self._book.add(job)
        limit = self._parts.settings.dispatch.max_task_bytes
        size = len(letter.value or b"")
        if size <= limit:
            self._router.route(job)
        elif self.claim(job, job.task.target or ""):
            self.fail(job, AnswerTooLarge(f"the task has {size} bytes; at most {limit} are accepted"))

    def cancel(self, task_id: str) -> None:
        """Somebody asked to: wherever the task is in this home, it ends now; a call under way is cut off."""
        self._lot.release(lambda letter: header(letter.headers, TASK_HEADER) == task_id)
        job = self._book.of(task_id)
        if job is None or job.ticket is None:
            return  # not here, or its agent is being looked up: then the router sees the wish
        if self._queues.drop(job.ticket) or self._flights.waits(job):
            self.finished(job.ticket, Cancelled(""))
        elif job.agent_id is not None:
            self._queues.callers[job.agent_id].cancel(job.ticket)

    def agent_changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """An agent was registered again, or unregistered (None: new tasks for it fail, those taken are finished)."""
        self._queues.changed(agent_id, agent)

    def clear_cache(self, agent_id: str | None) -> None:
        """Forget cached answers: those of this agent, or all."""
        self._memory.answers.clear(agent_id, self._loop.time())
        self._home.touch()

    def agent_available(self, agent: AgentRegistration) -> None:
        """An agent of any home can be chosen, and could not before: tasks that wait for one like it come back."""
        if not self._held:
            self._lot.release(self._router.detours.wanted_by(agent))

    @property
    def callers(self) -> Mapping[str, Caller]:
        """Of the agents that live here and had tasks, by id."""
        return self._queues.callers

    # Calling it

    def submit(self, job: Job, agent: AgentRegistration) -> None:
        found = self._memory.answers.find(job, self._loop.time())
        if found is not None:
            self.end(job, self._tell.repeated(job, *found))
            return
        left_s = (job.expires_ms - self._parts.wall_ms()) / 1000
        ticket = ticket_for(job, self._loop.time() + left_s, self._parts.settings.retry.max_retries)
        job.agent_id, job.ticket = agent.id, ticket
        caller = self._queues.caller(agent, self)
        if not self._flights.joins(job):
            self._tell.not_cached(job)
            self._queues.place(caller, ticket)

    def _lead(self, job: Job) -> None:
        """The equal task this one waited for ended without an answer: it goes its own way."""
        if not self._held:
            self.guarded(job.letter, partial(self._router.route, job))

    def _overdue(self, job: Job) -> None:
        """Its deadline passed while it waited for an equal one."""
        self.guarded(job.letter, partial(self.fail, job, Expired("the deadline passed while an equal task was called")))

    def _parked(self, ticket: Ticket, parking: Parking) -> None:
        """A task that goes to the `parked` topic: this record of it is finished. One that came from there is held again."""
        job: Job = ticket.work
        self._flights.left(job)
        if job.source == "parked" and parking.reason == "queue_full" and ticket.attempt == job.attempts:
            self.rest(job, (parking.due_ms - self._parts.wall_ms()) / 1000)
            return
        if parking.reason in ("circuit_open", "retry_after") and self._router.elsewhere(job, ticket):
            return
        self.end(job, self._tell.parked(job, ticket, parking), moved=True)

    def relieve(self, source: str, offsets: Sequence[int]) -> None:
        """Records that hold the commit: what waits goes to `parked`, a call under way goes on for a record there."""
        for letter in self._lot.lift(set(offsets)) if source == "parked" else ():
            self._home.complete(source, letter.offset, [self._parts.recorder.park_again(letter)])
        for offset in offsets:
            job = self._book.at(source, offset)
            if job is None or job.ticket is None or job.token is not None:
                continue
            if self._flights.waits(job) or not self._queues.relieve(job.ticket):
                self._move(job, job.ticket)

    def _move(self, job: Job, ticket: Ticket) -> None:
        token = f"{job.source}/{job.letter.partition}/{job.offset}"
        output = self._tell.moved(job, ticket, token)
        self._spans.moved(job, output)
        if output.fallback is None:  # it would not come back
            self._book.move(job, token)
            self._home.complete(job.source, job.offset, [output])

    def _arrived(self, letter: Letter) -> bool:
        """Whether this record only carries on a call that is under way here, or has ended meanwhile."""
        job = self._book.arrived(header(letter.headers, MOVED_HEADER), letter)
        if job is not None and job.outcome is not None:
            self.end(job, *job.outcome)
        return job is not None

    # What the caller tells

    def started(self, ticket: Ticket) -> None:
        """The first call begins."""
        self._tell.started(ticket.work)

    def retrying(self, ticket: Ticket, delay_s: float) -> None:
        """Another call follows."""
        self._home.touch()  # the failed call counts, also if the next owner makes the next one
        self._tell.retrying(ticket.work, ticket.attempt, delay_s)
        if ticket.work.task.target is None:
            self._loop.call_soon(self._reconsider, ticket)

    def _reconsider(self, ticket: Ticket) -> None:
        """A task that named no agent is to be tried again where the circuit has opened meanwhile: rather elsewhere."""
        caller = self._queues.callers.get(ticket.work.agent_id)
        if caller is None or self._held or caller.lane.breaker.shut_until(self._loop.time()) <= self._loop.time():
            return
        if caller.lane.remove(ticket):
            self._queues.place(caller, ticket)

    def finished(self, ticket: Ticket, answer: Answer | AgentError) -> None:
        """The end of a task's calls: its result."""
        job: Job = ticket.work
        agent_id = job.agent_id or ""
        if isinstance(answer, AgentError) and self._fares_better(job, ticket, answer):
            self._queues.left(agent_id)
            return
        if isinstance(answer, Cancelled):
            answer = Cancelled(self._parts.cancelled(job.task.id) or answer.message)
        if isinstance(answer, AgentError):
            self.guarded(job.letter, partial(self.fail, job, answer, ticket))
        else:
            self.guarded(job.letter, partial(self._succeed, job, answer, ticket))
        self._queues.left(agent_id)

    def _fares_better(self, job: Job, ticket: Ticket, error: AgentError) -> bool:
        caller = self._queues.callers.get(job.agent_id or "")
        return self._router.detours.worth(job, ticket, error, caller, self._loop.time()) and self._router.elsewhere(
            job, ticket
        )

    def circuit(self, agent_id: str, transition: Transition) -> None:
        """The circuit of an agent changed its state."""
        self._home.touch()
        self._tell.circuit(agent_id, transition)
        caller = self._queues.callers.get(agent_id)
        if caller is not None:
            self._parts.turned(agent_id, caller)
        if transition.kind == "open" and caller is not None and not self._held:
            self._queues.place_again(caller)

    def _succeed(self, job: Job, answer: Answer, ticket: Ticket) -> None:
        try:
            success = Success(
                dumps(answer.value), answer.confidence, dumps(answer.metadata) if answer.metadata else b""
            )
        except Rejected as rejected:
            self.fail(job, BadResponse(rejected.reason), ticket)
            return
        self._memory.answers.keep(job, job.agent_id or "", success, self._loop.time())
        for twin in self._flights.landed(job):
            self.end(twin, self._tell.repeated(twin, job.agent_id or "", success))
        self.end(job, self._tell.succeeded(job, success, ticket))

    def fail(self, job: Job, error: AgentError, ticket: Ticket | None = None) -> None:
        self.end(job, self._tell.failed(job, error, ticket))
