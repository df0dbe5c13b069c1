"""Samples: one task whose agent is asked several times, for confidence from agreement.

In: such a task when its first turn has come. Out: samples, each a pending call in the same queue, with a key of its own
(an agent that recognised the task's key would repeat its answer); and the end of the task. Each sample's call takes a
slot, a permit of the circuit and a turn of the rate limit. The samples share the task's retries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from agents_io.calling.pending_call import PendingCall
from agents_io.calling.rules.agent_queue import AgentQueue, Attempt
from agents_io.calling.rules.agreement import Agreement
from agents_io.errors import AgentError
from agents_io.transport import Answer
from schemas.messages import ConfidenceSource

R = TypeVar("R", bound=PendingCall)


@dataclass(slots=True, eq=False, kw_only=True)
class Sample(PendingCall, Generic[R]):
    """One of the calls for a task. `run`: the task."""

    run: R


Item: TypeAlias = R | Sample[R]


class SampleGroups(Generic[R]):
    """The tasks of one agent with samples that wait or are called. `cut_off`: cancels a sample's call, if there is
    one.
    """

    __slots__ = ("_cut_off", "_groups", "_queue")

    def __init__(self, queue: AgentQueue[Item[R]], cut_off: Callable[[Sample[R]], None]) -> None:
        self._queue = queue
        self._cut_off = cut_off
        self._groups: dict[R, tuple[Agreement, list[Sample[R]]]] = {}

    def __contains__(self, run: R) -> bool:
        return run in self._groups

    def open(self, attempt: Attempt[Item[R]], source: ConfidenceSource, now: float) -> bool:
        """Whether the attempt became the first of several samples. The others wait directly behind it."""
        run = attempt.item
        if source.source != "agreement" or isinstance(run, Sample):
            return False
        samples = [_sample(run, number) for number in range(1, source.sample_count + 1)]
        self._groups[run] = Agreement(source.sample_count, source.enough_count), samples
        attempt.item, *others = samples
        for sample in others:
            self._queue.push(
                sample,
                now=now,
                deadline=sample.deadline,
                timeout_s=sample.timeout_s,
                priority=sample.priority,
                place=attempt.place,
            )
        return True

    def ended(self, sample: Sample[R], end: Answer | AgentError) -> Answer | AgentError | None:
        """A sample ended. Returns the task's end if it is known now; the other samples are then dropped."""
        group = self._groups.get(sample.run)
        decided = None if group is None else group[0].add(end)
        if decided is not None:
            self.drop(sample.run)
        return decided

    def drop(self, run: R) -> bool:
        """Remove the samples that wait and cancel those that are called. False: the task has none."""
        group = self._groups.pop(run, None)
        for sample in () if group is None else group[1]:
            if not self._queue.remove(sample):
                self._cut_off(sample)
        return group is not None

    def clear(self) -> None:
        self._groups.clear()


def _sample(run: R, number: int) -> Sample[R]:
    return Sample(
        task_id=f"{run.task_id}/sample/{number}",
        idempotency_key=f"{run.idempotency_key}/sample/{number}",
        body=run.body,
        timeout_s=run.timeout_s,
        deadline=run.deadline,
        priority=run.priority,
        headers=run.headers,
        pattern_name=run.pattern_name,
        context_id=run.context_id,
        observer=run.observer,
        run=run,
    )
