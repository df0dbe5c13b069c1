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

from agents_io.caller import Caller, Ticket
from agents_io.errors import AgentError, AnswerTooLarge, BadResponse, Cancelled, Expired, NoAgent
from agents_io.rules.breaker import Transition
from agents_io.transport import Answer
from schemas.codec import Rejected, dumps, header
from schemas.messages import AgentRegistration
from schemas.partitioning import home_partition
from streams.detours import Detours
from streams.engine.home import Home
from streams.home_memory import HomeMemory
from streams.job_book import JobBook
from streams.jobs import Job, read_job, ticket_for
from streams.outcomes import Outcomes
from streams.parking_lot import ParkingLot
from streams.parts import Parts
from streams.queues import Parking, Queues
from streams.rules.records import (
    AGENT_HEADER,
    AWAIT_HEADER,
    DUE_HEADER,
    HOPS_HEADER,
    MOVED_HEADER,
    TASK_HEADER,
    Letter,
    Output,
    Success,
    own_header,
)
from streams.rules.routing import MAX_HOPS, absence
from streams.single_flight import SingleFlight

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
        self._lookups: set[asyncio.Task[None]] = set()
        self._book = JobBook(self._memory.seen, parts.wall_ms)
        self._tell = Outcomes(parts)
        self._detours = Detours(parts)
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
        for caller in self._queues.callers.values():
            caller.hold()

    def close(self) -> None:
        """Cancel whatever runs; nothing more is completed."""
        self._held = True
        for lookup in self._lookups:
            lookup.cancel()
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
        letter = Letter(source, record.partition, record.offset, record.key, record.value, record.headers)
        if source == "parked" and self._arrived(letter):
            return
        due_ms = own_header(record.headers, DUE_HEADER) if source == "parked" else None
        wait_s = 0.0 if due_ms is None else (due_ms - self._parts.wall_ms()) / 1000
        if wait_s > 0.005:
            self._lot.hold(letter, min(wait_s, MAX_PARKED_S))
        else:
            self._guarded(letter, lambda: self._begin(source, letter))

    def _back(self, letter: Letter) -> None:
        """A parked task is due."""
        if not self._held:
            self._guarded(letter, lambda: self._begin(letter.topic, letter))

    def _guarded(self, letter: Letter, step: Callable[[], None]) -> None:
        """A record must end, also when our own code fails on it: then as a dead letter."""
        try:
            step()
        except Rejected as rejected:
            self._refuse(letter, rejected)
        except Exception as error:
            log.exception("a record broke the worker's own code", topic=letter.topic, offset=letter.offset)
            self._refuse(letter, Rejected("dispatch", f"internal error: {type(error).__name__}"))

    def _refuse(self, letter: Letter, rejected: Rejected) -> None:
        job = self._book.at(letter.topic, letter.offset)
        if job is not None:  # no answer was given: a replay of this letter is no duplicate
            self._book.disclaim(job)
        self._end(letter.topic, letter.offset, self._tell.refused(letter, rejected))

    def _end(self, source: str, offset: int, outputs: list[Output], moved: bool = False) -> None:
        """A record's end. `moved`: the task goes on elsewhere, so that its id is still free there."""
        if (job := self._book.at(source, offset)) is not None:
            self._flights.left(job)
        if self._book.end(source, offset, outputs, moved):
            self._home.complete(source, offset, outputs)

    def _claim(self, job: Job, scope: str, outlives: bool = False) -> bool:
        """Whether this record is the one that answers its task id; any other is told to be a duplicate, and ends here."""
        if self._book.claim(job, scope, outlives):
            return True
        self._end(job.source, job.offset, self._tell.duplicate(job))
        return False

    def _begin(self, source: str, letter: Letter) -> None:
        now_ms = self._parts.wall_ms()
        job = read_job(letter, self._loop.time(), now_ms, self._default_timeout_ms)
        self._book.add(job)
        limit = self._parts.settings.dispatch.max_task_bytes
        size = len(letter.value or b"")
        if size <= limit:
            self._route(job)
        elif self._claim(job, job.task.target or ""):
            self._fail(job, AnswerTooLarge(f"the task has {size} bytes; at most {limit} are accepted"))

    def cancel(self, task_id: str) -> None:
        """Somebody asked to: wherever the task is in this home, it ends now; a call under way is cut off."""
        self._lot.release(lambda letter: header(letter.headers, TASK_HEADER) == task_id)
        job = self._book.of(task_id)
        if job is None or job.ticket is None:
            return  # not here, or its agent is being looked up: then `_route` sees the wish
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
            self._lot.release(self._detours.wanted_by(agent))

    @property
    def callers(self) -> Mapping[str, Caller]:
        """Of the agents that live here and had tasks, by id."""
        return self._queues.callers

    # Finding the agent

    def _route(self, job: Job, looked_up: bool = False) -> None:
        agents = self._parts.agents
        agent: AgentRegistration | None
        chosen = header(job.letter.headers, AGENT_HEADER) if job.source != "tasks" else None
        if job.task.target is None and not chosen and not self._arbitrate(job):
            return
        if (why := self._parts.cancelled(job.task.id)) is not None:
            if self._claim(job, job.task.target or ""):
                self._fail(job, Cancelled(why))
            return
        if job.task.type != "agent":
            try:
                agent = self._parts.builtin(job.task)
            except AgentError as error:
                if self._claim(job, job.task.target or ""):
                    self._fail(job, error)
                return
        elif job.task.target is not None:
            agent = agents.get(job.task.target)
        else:
            # The one chosen before the hop, unless it is gone meanwhile.
            agent = (agents.get(chosen) if chosen else None) or self._parts.balancer.choose(job.task)
        if agent is None:
            known = job.task.target is None and self._parts.balancer.capable(job.task)
            if not (looked_up or known):
                self._look_up(job)
            elif not self._awaits(job, chosen or "", known) and self._claim(job, job.task.target or ""):
                self._fail(job, NoAgent(absence(job.task, known)))
            return
        if self._forwarded(job, agent.id, agent.id) or not self._claim(job, agent.id):
            return
        self._submit(job, agent)

    def _arbitrate(self, job: Job) -> bool:
        """Any agent may answer this task: whether its id is a new one is decided in one place, the home of the id."""
        return not self._forwarded(job, job.task.id, None) and self._claim(job, "", outlives=True)

    def _awaits(self, job: Job, chosen: str, known: bool) -> bool:
        """Whether the task is put aside until an agent can take it. Its id is free again, unless it was claimed elsewhere."""
        due_ms = self._detours.wait_until_ms(job, known)
        if due_ms is None:
            return False
        if job.source == "parked" and header(job.letter.headers, AWAIT_HEADER) is not None:
            self._book.rest(job)
            self._lot.hold(job.letter, (due_ms - self._parts.wall_ms()) / 1000)
            return True
        if not chosen:
            self._book.disclaim(job)
        self._end(job.source, job.offset, self._tell.awaits(job, chosen, due_ms), moved=True)
        return True

    def _elsewhere(self, job: Job, ticket: Ticket) -> bool:
        """Give a task to another agent, as its own takes no call; False if there is none, or it named its agent."""
        agent = self._detours.other(job, ticket)
        if agent is None:
            return False
        if not self._forwarded(job, agent.id, agent.id):
            self._book.release(job, job.agent_id or "")
            if self._claim(job, agent.id):
                self._submit(job, agent)
        return True

    def _reconsider(self, ticket: Ticket) -> None:
        """A task that named no agent is to be tried again where the circuit has opened meanwhile: rather elsewhere."""
        caller = self._queues.callers.get(ticket.work.agent_id)
        if caller is None or self._held or caller.lane.breaker.shut_until(self._loop.time()) <= self._loop.time():
            return
        if caller.lane.remove(ticket):
            self._queues.place(caller, ticket)

    def _forwarded(self, job: Job, key: str, agent_id: str | None) -> bool:
        """Send the task on to the home of `key`, unless this is it. `agent_id`: the agent, if it is chosen."""
        number = home_partition(key, self._parts.partition_count())
        hops = own_header(job.letter.headers, HOPS_HEADER) if job.source != "tasks" else 0
        if number == self._home.number or (hops or 0) >= MAX_HOPS:
            return False
        self._end(
            job.source,
            job.offset,
            self._tell.forwarded(job, key, agent_id, (hops or 0) + 1, number),
            moved=True,
        )
        return True

    def _look_up(self, job: Job) -> None:
        """The agent may have been registered a moment ago: read the topic to its end before saying no."""

        async def look() -> None:
            await self._parts.agents.catch_up()
            if not self._held:  # the next owner looks for itself
                self._guarded(job.letter, lambda: self._route(job, looked_up=True))

        task = self._loop.create_task(look())
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    # Calling it

    def _submit(self, job: Job, agent: AgentRegistration) -> None:
        found = self._memory.answers.find(job, self._loop.time())
        if found is not None:
            self._end(job.source, job.offset, self._tell.repeated(job, *found))
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
            self._guarded(job.letter, partial(self._route, job))

    def _overdue(self, job: Job) -> None:
        """Its deadline passed while it waited for an equal one."""
        self._guarded(
            job.letter, partial(self._fail, job, Expired("the deadline passed while an equal task was called"))
        )

    def _parked(self, ticket: Ticket, parking: Parking) -> None:
        """A task that goes to the `parked` topic: this record of it is finished. One that came from there is held again."""
        job: Job = ticket.work
        now_ms = self._parts.wall_ms()
        self._flights.left(job)
        if job.source == "parked" and parking.reason == "queue_full" and ticket.attempt == job.attempts:
            self._book.rest(job)
            self._lot.hold(job.letter, (parking.due_ms - now_ms) / 1000)
            return
        if parking.reason in ("circuit_open", "retry_after") and self._elsewhere(job, ticket):
            return
        self._end(job.source, job.offset, self._tell.parked(job, ticket, parking), moved=True)

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
        if output.fallback is None:  # it would not come back
            self._book.move(job, token)
            self._home.complete(job.source, job.offset, [output])

    def _arrived(self, letter: Letter) -> bool:
        """Whether this record only carries on a call that is under way here, or has ended meanwhile."""
        job = self._book.arrived(header(letter.headers, MOVED_HEADER), letter)
        if job is not None and job.outcome is not None:
            self._end(job.source, job.offset, *job.outcome)
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
            self._guarded(job.letter, partial(self._fail, job, answer, ticket))
        else:
            self._guarded(job.letter, partial(self._succeed, job, answer, ticket))
        self._queues.left(agent_id)

    def _fares_better(self, job: Job, ticket: Ticket, error: AgentError) -> bool:
        caller = self._queues.callers.get(job.agent_id or "")
        return self._detours.worth(job, ticket, error, caller, self._loop.time()) and self._elsewhere(job, ticket)

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
            success = Success(dumps(answer.value), answer.confidence)
        except Rejected as rejected:
            self._fail(job, BadResponse(rejected.reason), ticket)
            return
        self._memory.answers.keep(job, job.agent_id or "", success, self._loop.time())
        for twin in self._flights.landed(job):
            self._end(twin.source, twin.offset, self._tell.repeated(twin, job.agent_id or "", success))
        self._end(job.source, job.offset, self._tell.succeeded(job, success, ticket))

    def _fail(self, job: Job, error: AgentError, ticket: Ticket | None = None) -> None:
        self._end(job.source, job.offset, self._tell.failed(job, error, ticket))
