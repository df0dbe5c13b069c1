"""The index of tasks that wait for their time against a naive model: a dict that is searched whenever it is asked."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.rules.schedules import scheduled_tasks
from streams.rules.schedules.scheduled_tasks import ScheduledTasks

hashes = st.one_of(st.integers(0, 20), st.integers(2**64 - 20, 2**64 - 1))
times = st.one_of(st.integers(0, 50), st.integers(0, 253_402_300_799_999))


class ScheduledTasksMachine(RuleBasedStateMachine):
    """The first record of a task counts, and tasks come out by time, then by offset."""

    def __init__(self) -> None:
        super().__init__()
        scheduled_tasks.SPARE = 3
        self.tasks = ScheduledTasks()
        self.model: dict[int, tuple[int, int]] = {}
        self.offset = 0

    @rule(due_ms=times, task_hash=hashes, far=st.booleans())
    def add(self, due_ms: int, task_hash: int, far: bool) -> None:
        self.offset += 2**40 if far and self.offset < 2**43 else 1
        assert self.tasks.add(due_ms, self.offset, task_hash) == (task_hash not in self.model)
        self.model.setdefault(task_hash, (due_ms, self.offset))

    @rule(task_hash=hashes)
    def remove(self, task_hash: int) -> None:
        found = self.model.pop(task_hash, None)
        assert self.tasks.remove(task_hash) == (None if found is None else found[1])

    @rule(now_ms=times, most=st.integers(1, 5))
    def pop(self, now_ms: int, most: int) -> None:
        due = sorted(entry for entry in self.model.values() if entry[0] <= now_ms)[:most]
        assert self.tasks.pop_due(now_ms, most) == [offset for _, offset in due]
        self.model = {key: entry for key, entry in self.model.items() if entry not in due}

    @rule(head=st.integers(0, 60))
    def keep(self, head: int) -> None:
        self.tasks.keep(lambda offset: offset >= head)
        self.model = {key: entry for key, entry in self.model.items() if entry[1] >= head}

    @invariant()
    def the_same(self) -> None:
        assert len(self.tasks) == len(self.model)
        assert self.tasks.next_due_ms == min((due for due, _ in self.model.values()), default=None)
        for task_hash in range(20):
            entry = self.model.get(task_hash)
            assert self.tasks.offset_of(task_hash) == (None if entry is None else entry[1])
            assert self.tasks.due_of(task_hash) == (None if entry is None else entry[0])


TestScheduledTasks = ScheduledTasksMachine.TestCase
TestScheduledTasks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
