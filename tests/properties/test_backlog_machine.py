"""The backlog against a naive model: a list that is sorted whenever it is asked."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.rules.dispatch.backlog import Backlog, BacklogEntry

NEVER = float("inf")
moments = st.integers(0, 12).map(float)


class BacklogMachine(RuleBasedStateMachine):
    """Whatever is taken out is what the model says, in its order, and is gone then."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.model: list[BacklogEntry] = []
        self.offset = 0

    def in_order(self) -> list[BacklogEntry]:
        """Sorting is stable: equal ones stay in the order of their arrival."""
        return sorted(self.model, key=lambda task: (-task.priority, task.order))

    def leave(self, found: list[BacklogEntry], expected: list[BacklogEntry]) -> None:
        """These and no others, each once; within a priority in their order."""
        assert sorted(found) == sorted(expected)
        for priority in {task.priority for task in found}:
            ranked = [task for task in self.in_order() if task in expected and task.priority == priority]
            assert [task for task in found if task.priority == priority] == ranked
        self.model = [task for task in self.model if task not in expected]

    @rule(
        source=st.sampled_from(["tasks", "parked"]),
        order=moments,
        priority=st.integers(-1, 2),
        deadline=st.just(NEVER) | moments,
        task_hash=st.integers(0, 3),
    )
    def add(self, source: str, order: float, priority: int, deadline: float, task_hash: int) -> None:
        self.offset += 1
        task = BacklogEntry(source, self.offset, order, priority, deadline, task_hash)
        self.backlog.add(task)
        self.model.append(task)

    @rule(most=st.integers(0, 5))
    def take(self, most: int) -> None:
        expected = self.in_order()[:most]
        assert self.backlog.take(most) == expected
        self.model = [task for task in self.model if task not in expected]

    @rule(now=moments)
    def take_expired(self, now: float) -> None:
        self.leave(self.backlog.take_expired(now), [task for task in self.model if task.deadline <= now])

    @rule(task_hash=st.integers(0, 3))
    def take_task(self, task_hash: int) -> None:
        self.leave(self.backlog.take_tasks({task_hash}), [task for task in self.model if task.task_hash == task_hash])

    @rule(source=st.sampled_from(["tasks", "parked", "dispatch"]), offsets=st.frozensets(st.integers(1, 30)))
    def take_records(self, source: str, offsets: frozenset[int]) -> None:
        expected = [task for task in self.model if task.source == source and task.offset in offsets]
        self.leave(self.backlog.take_records(source, offsets), expected)

    @rule(source=st.sampled_from(["tasks", "parked", "dispatch"]), offset=st.integers(1, 30))
    def holds(self, source: str, offset: int) -> None:
        held = any((task.source, task.offset) == (source, offset) for task in self.model)
        assert self.backlog.holds(source, offset) == held

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.backlog) == len(self.model)
        assert self.backlog.highest_priority() == max((task.priority for task in self.model), default=None)


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
