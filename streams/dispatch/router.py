"""Decides about a task: which agent it is for, which partition owns that agent, whether its id is new.

In: a task run of one partition. Out: one `Decision`. It writes and calls nothing; it only changes the claims on task
ids, since two records with one id must not both pass. The balancer chooses among agents.

A task that names its agent or function is answered once in the partition that owns it, whether it is registered or
not. Any other task is first checked in the partition of its own id, before its agent is known (`task_ids.py`): only there
is a second record of it noticed, whichever agent the first one had.
"""

from __future__ import annotations

from agents_io.errors import AgentError, AnswerTooLarge, Cancelled, Expired, NoAgent
from schemas.messages import AgentRegistration
from schemas.partitioning import owner_partition
from streams.dispatch.context import DispatchContext
from streams.dispatch.decisions import (
    CallAgent,
    Decision,
    Duplicate,
    Fail,
    Forward,
    LookUp,
    RunPlan,
    WaitForAgent,
    WaitForTime,
)
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.builtins import builtin_id
from streams.rules.dispatch.deadlines import never_called
from streams.rules.dispatch.routing import MAX_HOPS, MAX_REROUTES, absence
from streams.rules.dispatch.task_ids import Comparison, comparison, first_comparison
from streams.rules.plans.task_plans import template_for


class Router:
    """Routes the tasks of partition `number`."""

    def __init__(self, number: int, context: DispatchContext, tasks: InFlightTasks) -> None:
        self._number = number
        self._context = context
        self._tasks = tasks

    def route(self, run: TaskRun, looked_up: bool = False) -> Decision:
        """Where the task goes. `looked_up`: the topic of agents has just been read to its end for it."""
        if run.judged is not None:
            return self._to_judge(run, run.judged.judge, looked_up)
        # A record that names a chosen agent was checked before: checked again, it would be its own duplicate.
        first = None if run.chosen else first_comparison(run.task)
        if first is not None and (decision := self._check_id(run, first)) is not None:
            return decision
        template = template_for(run.task, self._context.templates)
        if template is not None:
            # Also if it is not to run: before an upgrade, whether the id is new was decided in the partition of its plan.
            return RunPlan(template, self._unrunnable(run))
        return self._by_capability(run, looked_up) if run.any_agent else self._by_name(run, looked_up)

    def failover(self, run: TaskRun) -> CallAgent | Forward | Duplicate | None:
        """Another agent for a task whose agent takes no call; None if the task named its agent, or there is no
        other.
        """
        if not run.any_agent or run.token is not None or run.cancelled or run.judged is not None:
            return None
        if run.ordering_key is not None:
            return None  # later tasks of its key would be called at another agent than it, or before it
        if run.reroutes >= MAX_REROUTES or run.hops >= MAX_HOPS - 1:
            return None
        agent = self._context.balancer.choose(run.task, without=(run.agent_id or "",))
        if agent is None:
            return None
        run.reroutes += 1
        self._context.metrics.rerouted.inc()
        forward = self._forward(run, agent.id, agent.id)
        if forward is not None:
            return forward
        self._tasks.release(run, run.agent_id or "")
        return CallAgent(agent) if self._tasks.claim(run, agent.id) else Duplicate()

    def end(self, run: TaskRun, error: AgentError) -> Decision:
        """How a task ends that has failed, or has waited in vain. Its id must be claimed where it is compared."""
        if run.claims or run.judged is not None:
            return Fail(error)
        if run.chosen and first_comparison(run.task) is not None:
            return self._fail(run, error)  # its id was compared before the agent was chosen
        # It waits in a wrong partition, before it is forwarded again: it ends in the right one.
        run.waited_for_agent = True
        return self.route(run)

    def may_answer(self, run: TaskRun) -> bool:
        """Whether a result of this partition is the only one of the task: its id is claimed here, or is now."""
        if run.claims or run.judged is not None:
            return True
        key, scope = comparison(run.task, run.chosen)
        return self._forward(run, key, None) is None and self._tasks.claim(run, scope)

    def schedule(self, run: TaskRun) -> WaitForTime | None:
        """Where the task waits for its time; None if the time has come, or the task will end without a call."""
        at_ms = run.not_before_ms
        if at_ms is None or at_ms <= self._context.wall_ms():
            return None
        if self.ends_without_call(run):
            return None
        return WaitForTime(owner_partition(run.task_id, self._context.partition_count()), at_ms)

    def ends_without_call(self, run: TaskRun) -> bool:
        """Whether the task is cancelled, has expired or is too large: it then fails when it is routed."""
        return self._unwanted(run) is not None

    def _to_judge(self, run: TaskRun, judge: str, looked_up: bool) -> Decision:
        """The task has its answer, and another agent judges it. Its id is claimed separately from tasks for that
        agent.
        """
        forward = self._away(run, judge, None)
        if forward is not None:
            return forward
        if not self._tasks.claim(run, f"\0judge {judge}"):
            return Duplicate()
        if (error := self._unwanted(run)) is not None:
            return Fail(error)
        agent = self._context.agents.get(judge)
        if agent is not None:
            return CallAgent(agent)
        return Fail(NoAgent("it is not registered")) if looked_up else LookUp()

    def _check_id(self, run: TaskRun, first: Comparison) -> Forward | WaitForAgent | Duplicate | None:
        """Whether the id is new, before its agent is known. None: it is, and the task may go to any agent."""
        forward = self._away(run, first.key, None)
        if forward is not None:
            return forward
        return None if self._tasks.claim(run, first.scope, outlives=True) else Duplicate()

    def _unrunnable(self, run: TaskRun) -> AgentError | None:
        """Why a pattern is not to run whose time has not come, or had not when it was cancelled: its plan would begin."""
        is_early = run.not_before_ms is not None and run.not_before_ms > self._context.wall_ms()
        return self._unwanted(run) if is_early or run.cancel_reason is not None else None

    def _by_name(self, run: TaskRun, looked_up: bool) -> Decision:
        task = run.task
        agent: AgentRegistration | None = None
        refused: AgentError | None = None
        if task.type == "agent":
            name = task.target or ""
            agent = self._context.agents.get(name)
        else:
            try:
                agent = self._context.builtin(task)
                name = agent.id
            except AgentError as error:
                name, refused = builtin_id(task), error
        forward = self._away(run, name, name)
        if forward is not None:
            return forward
        if not self._tasks.claim(run, name):
            return Duplicate()
        if (error_found := self._unwanted(run) or refused) is not None:
            return Fail(error_found)
        if agent is not None:
            return CallAgent(agent)
        if not looked_up:
            return LookUp()
        return WaitForAgent() if self._waits(known=False) else Fail(NoAgent(absence(task)))

    def _by_capability(self, run: TaskRun, looked_up: bool) -> Decision:
        if (error := self._unwanted(run)) is not None:
            return self._fail(run, error)
        balancer = self._context.balancer
        agent = self._context.agents.get(run.chosen) if run.chosen else None
        if agent is None:
            key = run.ordering_key
            agent = balancer.choose(run.task) if key is None else balancer.choose_for_key(run.task, key)
        if agent is not None:
            return self._to(run, agent)
        known = balancer.capable(run.task)
        if not (looked_up or known):
            return LookUp()
        return WaitForAgent() if self._waits(known) else self._fail(run, NoAgent(absence(run.task, known)))

    def _to(self, run: TaskRun, agent: AgentRegistration) -> Decision:
        forward = self._away(run, agent.id, agent.id)
        if forward is not None:
            return forward
        if run.ordering_key is not None and run.chosen != agent.id:
            # As from any other partition: once it names its agent, it takes its place among the tasks of its key there.
            return Forward(self._number, agent.id, agent.id)
        return CallAgent(agent) if self._tasks.claim(run, agent.id) else Duplicate()

    def _fail(self, run: TaskRun, error: AgentError) -> Decision:
        """End the task with the error. If it was checked elsewhere, it is claimed under the agent it was sent to:
        nothing else is claimed for it here.
        """
        if run.chosen and not self._tasks.claim(run, run.chosen):
            return Duplicate()
        return Fail(error)

    def _unwanted(self, run: TaskRun) -> AgentError | None:
        """Why the task must not be called at all."""
        reason = run.cancel_reason or self._context.cancelled(run.task_id, run.origin_ms)
        if reason is not None:
            return Cancelled(reason)
        if run.deadline_ms is not None:
            if run.not_before_ms is not None and run.deadline_ms <= run.not_before_ms:
                return Expired(never_called(run.not_before_ms, run.deadline_ms))
            if run.deadline_ms <= self._context.wall_ms():
                return Expired("the deadline passed before the task could be called")
        limit, size = self._context.settings.dispatch.max_task_bytes, len(run.record.value or b"")
        return None if size <= limit else AnswerTooLarge(f"the task has {size} bytes; at most {limit} are accepted")

    def _waits(self, known: bool) -> bool:
        mode = self._context.settings.dispatch.await_agent
        return mode == "always" or (mode == "unavailable" and known)

    def _away(self, run: TaskRun, key: str, agent_id: str | None) -> Forward | WaitForAgent | None:
        """Send the task to the partition of `key`, unless that is this one. A task that was forwarded often already
        waits first.

        Otherwise it could circulate while agents come and go, or while workers count partitions differently. It is
        never processed in the wrong partition: its agent would be called beside its owner, and its id answered twice.
        """
        forward = self._forward(run, key, agent_id)
        if forward is not None and run.hops >= MAX_HOPS and not run.waited_for_agent:
            return WaitForAgent()
        return forward

    def _forward(self, run: TaskRun, key: str, agent_id: str | None) -> Forward | None:
        """Send the task to the partition of `key`, unless that is this one."""
        number = owner_partition(key, self._context.partition_count())
        return None if number == self._number else Forward(number, key, agent_id)
