"""Dispatch of one partition: `tasks`, `dispatch`, `parked` -> agents -> `results`, `data-points`, `events`; invalid
input -> dead letters.

Implements what the engine (`engine/handler.py`), the role and the page ask of a partition. A task's life is in
`processor.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiokafka.structs import ConsumerRecord

from agents_io.calling.caller import Caller
from agents_io.protocols.metadata_keys import answer_source
from schemas.messages import AgentRegistration
from streams.dispatch.context import DispatchContext
from streams.dispatch.processor import DispatchProcessor
from streams.dispatch.task_run import TaskRun
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.records import Output


def handlers_of(processors: Iterable[PartitionProcessor]) -> Iterator[DispatchHandler]:
    """The dispatch handlers of these partitions; a partition that still opens has none yet."""
    for processor in processors:
        if isinstance(processor.handler, DispatchHandler):
            yield processor.handler


class DispatchHandler:
    """The dispatch of one partition, with the interface that engine and role use."""

    def __init__(self, partition: PartitionProcessor, context: DispatchContext, stored: Iterable[bytes] = ()) -> None:
        """`stored`: records that earlier owners of this partition wrote to the state topic."""
        self._partition = partition
        self._memory = context.memory
        self._processor = DispatchProcessor(partition, context, stored)
        self._tasks = self._processor.tasks
        self._waiting = self._processor.waiting
        self._state = self._processor.state
        self._loop = asyncio.get_running_loop()

    # Called by the engine

    def process(self, source: str, record: ConsumerRecord) -> None:
        """Work on a record of topic `source` (short name)."""
        self._processor.process(source, record)

    def room(self, source: str) -> bool:
        """Whether another record may be taken. Relocated tasks always may: the ends of others wait for them."""
        return source == "parked" or self._waiting.room

    def running(self) -> int:
        return self._waiting.queues.running()

    def changes(self) -> list[Output]:
        """State that changed, for the state topic and the next owner."""
        return self._state.changes(self.callers.values())

    def outlasting(self) -> list[bytes]:
        """The circuits and limits of its agents, as values of the state topic: calls were made, whatever was committed."""
        return self._state.guards(self.callers.values())

    def unblock(self, source: str, offsets: Sequence[int]) -> None:
        """Relocate these records, which hold back the commit, to the end of `parked`: their tasks continue from
        there.
        """
        self._waiting.relocation.unblock(source, offsets)

    def explain(self, source: str, offset: int) -> dict[str, Any] | None:
        """What a record in flight waits for: reason, and for a task in memory taskId, agentId, age (ms) and the begin
        of the wait.
        """
        run = self._tasks.at(source, offset)
        explainer = self._waiting.explainer
        return explainer.record(source, offset) if run is None else explainer.run(run)

    def hold(self) -> None:
        """Start nothing more; calls under way may finish."""
        self._waiting.hold()

    def close(self) -> None:
        """Cancel the calls under way; nothing more is completed."""
        # The memory is shared with the worker's other partitions: tasks under call, or that failed while held, leave it too.
        for run in self._tasks.all():
            self._memory.release(run)
        self._waiting.close()
        self._tasks.clear()

    # Called by the role and the page

    def cancel(self, task_id: str) -> None:
        """End the task wherever it waits in this partition; a call under way is cut off."""
        self._waiting.cancel(task_id)

    def explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task waits for, see `Explainer.details`; None if it is not in memory here."""
        runs = self._tasks.of(task_id)
        return self._waiting.explainer.details(runs[0]) if runs else None

    def agent_changed(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """An agent was registered again, or unregistered (None: new tasks for it fail, accepted ones are finished).

        If it may now answer differently, its cached answers are dropped.
        """
        caller = self._waiting.queues.callers.get(agent_id)
        if agent is not None and (caller is None or answer_source(caller.agent) != answer_source(agent)):
            self.clear_cache(agent_id)
        self._waiting.queues.changed(agent_id, agent)

    def agent_available(self, agent: AgentRegistration) -> None:
        """An agent of any partition became available."""
        if not self._waiting.held:
            self._waiting.unassigned.appeared(agent)

    def clear_cache(self, agent_id: str | None) -> None:
        """Forget cached answers: those of this agent, or all."""
        self._state.answers.clear(agent_id, self._loop.time())
        self._partition.touch()

    @property
    def callers(self) -> Mapping[str, Caller[TaskRun]]:
        """The callers of agents that this partition owns and that had tasks, by id."""
        return self._waiting.queues.callers
