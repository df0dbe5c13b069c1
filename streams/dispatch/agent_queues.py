"""The queues of one partition: one per agent, in memory up to the agent's share; further tasks wait on their topic.

In: task runs with their agent. Out: tasks in their agent's queue, or left on their topic and read back in order when
the queue runs low. How much an agent may hold depends on what all agents of the worker hold together
(`rules/dispatch/delaying.py`). Nothing is written, no timer runs, and no agent's tasks keep another's from being read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agents_io.calling.caller import Caller
from agents_io.calling.pending_call import CallEvents
from agents_io.calling.rules.agent_queue import Block
from schemas.messages import AgentRegistration
from streams.dispatch.backlogs import Backlogs
from streams.dispatch.callers import CallerFactory, GuardSnapshot
from streams.dispatch.held_memory import HeldMemory
from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.delaying import CLOSED_S, is_crowded, low_mark, to_read_back

CHECK_S = 0.25
"""How often tasks left on their topic are checked: for deadlines, and for queues that run low."""
MAX_AGENTS = 2000
"""Agents of one partition; beyond that, resting ones are forgotten."""
TIDY_S = 10.0


class AgentQueues:
    """Where the tasks of one partition wait. `callers`: by agent id; `backlogs`: the tasks left on their topic."""

    def __init__(
        self,
        *,
        factory: CallerFactory,
        memory: HeldMemory,
        backlogs: Backlogs,
        leave: Callable[[TaskRun], None],
        stored: Callable[[str], GuardSnapshot | None],
    ) -> None:
        """`leave` forgets a run whose record stays on its topic; `stored`: an agent's guard state from another
        owner.
        """
        self.callers: dict[str, Caller[TaskRun]] = {}
        self._factory = factory
        self._memory = memory
        self._backlogs = backlogs
        self._leave = leave
        self._stored = stored
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tidied = float("-inf")
        self._closed = False

    def caller(self, agent: AgentRegistration, events: CallEvents[TaskRun]) -> Caller[TaskRun]:
        """The agent's caller, updated if the registration changed."""
        caller = self.callers.get(agent.id)
        if caller is None:
            self._tidy()
            stored = self._stored(agent.id)
            caller = self.callers[agent.id] = self._factory.make(agent, events, stored)
            caller.changed = stored is not None  # it may be this worker's own, and not committed yet
        elif caller.agent is not agent:
            self._factory.update(caller, agent)
        return caller

    def put(self, run: TaskRun, caller: Caller[TaskRun]) -> None:
        """Queue a task in memory; or leave its record on its topic, which ends the run."""
        agent_id, concurrency = caller.agent.id, caller.queue.max_concurrency
        # A task that was read back for this agent had its turn; one whose record is being relocated has no place on its topic;
        # one that can have no turn before its deadline ends at once.
        ends_at_once = run.deadline <= caller.queue.closed_until(self._loop.time())
        its_turn = run.reloaded == agent_id or run.token is not None or ends_at_once
        ahead = not its_turn and self._backlogs.precedes(agent_id, run.priority)
        room = its_turn or (self._memory.room_for(agent_id, concurrency, run.size) and not self._enough(caller))
        if ahead or not (room or self._make_way(run, caller)):
            self._set_aside(run, agent_id)
            return
        self._memory.hold(run, agent_id)
        caller.submit(run)

    def _enough(self, caller: Caller[TaskRun]) -> bool:
        """Whether more tasks wait in memory than will begin soon: the agent's circuit is open, or its rate limit has no
        turn.
        """
        now, queue = self._loop.time(), caller.queue
        return is_crowded(queue.waiting, queue.max_concurrency) and queue.closed_until(now) > now + CLOSED_S

    def _make_way(self, run: TaskRun, caller: Caller[TaskRun]) -> bool:
        """Leave the last task on its topic in favour of this one, if it is less urgent."""
        last = _last(caller)
        if last is None or last.priority >= run.priority:
            return False
        self._move_to_topic(last, caller)
        return True

    def relocated(self, run: TaskRun) -> None:
        """The task's record is elsewhere now. If its agent holds more than its share, its last task is left on its
        topic.
        """
        caller = self.callers.get(run.agent_id or "")
        if caller is None:
            return
        agent_id, concurrency = caller.agent.id, caller.queue.max_concurrency
        if self._memory.held(agent_id) <= low_mark(concurrency) or self._memory.room_for(agent_id, concurrency, 0):
            return
        last = _last(caller)
        if last is not None:
            self._move_to_topic(last, caller)

    def left(self, run: TaskRun) -> None:
        """A task ended or moved: there is room for another."""
        agent_id = run.held_for
        self._memory.release(run)
        if agent_id is not None:
            self._fill(agent_id)

    def loaded(self, agent_id: str) -> None:
        """Tasks were read back: more may be wanted."""
        self._fill(agent_id)

    def changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """An agent's registration changed: waiting tasks follow the new one. An unregistered idle agent is
        forgotten.
        """
        caller = self.callers.get(agent_id)
        if caller is None:
            return
        if agent is not None:
            self._factory.update(caller, agent)
            caller.advance()
        else:
            self._forget_resting(agent_id, caller, self._loop.time())

    def closed_for_s(self, caller: Caller[TaskRun]) -> tuple[Block | None, float]:
        """What keeps the agent from taking calls, and for how many seconds at least; infinite if unknown."""
        now = self._loop.time()
        return caller.queue.closed_by(now), caller.queue.open_at(now) - now

    def open_circuit(self, run: TaskRun) -> Caller[TaskRun] | None:
        """The caller in whose queue the task waits, if that agent's circuit is open."""
        caller, now = self.callers.get(run.agent_id or ""), self._loop.time()
        if caller is None or caller.queue.breaker.shut_until(now) <= now or not caller.queue.holds(run):
            return None
        return caller

    def hold(self) -> None:
        """Begin no further call."""
        for caller in self.callers.values():
            caller.hold()

    def running(self) -> int:
        return sum(caller.running for caller in self.callers.values())

    def close(self) -> None:
        """Cancel the calls under way and forget everything. `DispatchHandler.close` releases the memory."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for caller in self.callers.values():
            caller.close()

    def _move_to_topic(self, run: TaskRun, caller: Caller[TaskRun]) -> None:
        caller.queue.remove(run)
        self._memory.release(run)
        self._set_aside(run, caller.agent.id)

    def _set_aside(self, run: TaskRun, agent_id: str) -> None:
        self._backlogs.add(agent_id, run)
        self._leave(run)
        self._fill(agent_id)
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(CHECK_S, self._check)

    def _fill(self, agent_id: str) -> None:
        """Read tasks back when the agent's queue runs low: enough for its concurrency, as far as memory allows."""
        waiting = self._backlogs.waiting(agent_id)
        caller = self.callers.get(agent_id)
        if not waiting or caller is None or self._closed:
            return
        room = self._memory.may_load(agent_id, self._backlogs.average_size(agent_id))
        most = to_read_back(self._memory.held(agent_id), caller.queue.max_concurrency, room)
        if most > 0:
            self._backlogs.load(agent_id, most)

    def _check(self) -> None:
        self._timer = None
        self._backlogs.load_expired(self._loop.time())
        for agent_id in self._backlogs.keys:
            self._fill(agent_id)
        if self._backlogs.keys and not self._closed:
            self._timer = self._loop.call_later(CHECK_S, self._check)

    def _tidy(self) -> None:
        """Forget agents without any state: tasks may name any number of hosts and patterns."""
        now = self._loop.time()
        if len(self.callers) < MAX_AGENTS or now - self._tidied < TIDY_S:
            return
        self._tidied = now
        for agent_id, caller in list(self.callers.items()):
            self._forget_resting(agent_id, caller, now)

    def _forget_resting(self, agent_id: str, caller: Caller[TaskRun], now: float) -> None:
        """Forget resting agents; one with a rate limit or a circuit to remember stays."""
        if not self._backlogs.waiting(agent_id) and _rests(caller, now):
            caller.close()
            del self.callers[agent_id]


def _last(caller: Caller[TaskRun]) -> TaskRun | None:
    """The task with the last turn; one whose record is being relocated has no place on its topic."""
    return caller.last(lambda waiting: waiting.token is None)


def _rests(caller: Caller[TaskRun], now: float) -> bool:
    """Whether nothing is under way and no state is needed: the circuit closed, the window empty, all of it
    committed.
    """
    queue = caller.queue
    if caller.running or queue.waiting or caller.changed or queue.limiter.used(now) or queue.closed_by(now) is not None:
        return False
    return queue.breaker.state(now) == "closed" and not queue.breaker.failures(now)
