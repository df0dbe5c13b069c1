"""Order per conversation: of the tasks with one `metadata.orderingKey` at one agent, only the first is processed; the
others wait here until it has ended.

In: task runs with an ordering key, before they are routed. Out: each to `decide` at its turn. A task that has its turn
keeps it through every wait, retry and relocation: only its end, or its move to another partition, gives the turn to the
next.

A task that waits here is in no agent's queue. A few tasks of each key wait in memory, the rest on their topic, in the
order of the log. A new owner starts no task with a key before it has read `parked` up to its end at the takeover:
relocated tasks are older than those on the other topics (`may_relocate` ensures that).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import isinf

from streams.dispatch.backlogs import Backlogs
from streams.dispatch.held_memory import HeldMemory
from streams.dispatch.ordered_key import PREFIX, OrderedKey
from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.builtins import builtin_id
from streams.rules.dispatch.ordering import READING, TOPICS, LogPosition

MAX_KEYS = 20_000
"""Keys of one partition with a task that has not ended; beyond that, the partition reads no more. One takes about 1
KiB, and as much again for each topic on which tasks of it are left.
"""
MAX_IN_MEMORY = 256
"""Tasks of one partition that wait in memory behind others of their key: they count as in flight."""
KEEP = 8
"""The same for one key and topic; as many are read back at once."""
CHECK_S = 0.25
"""How often deadlines of tasks left on their topic are checked."""
CATCH_UP_S = 0.02
RECHECK_S = 0.05
TURN = 64
"""Keys checked in one turn of the loop."""


class OrderedTasks:
    """The ordered tasks of one partition. `caught_up`: whether the records relocated before this owner began have all
    come.

    `unwanted`: whether a task ends without a call (cancelled, expired): it need not wait. `leave` forgets a run whose
    record stays on its topic.
    """

    def __init__(
        self,
        *,
        memory: HeldMemory,
        backlogs: Backlogs,
        decide: Callable[[TaskRun], None],
        unwanted: Callable[[TaskRun], bool],
        leave: Callable[[TaskRun], None],
        caught_up: Callable[[], bool],
    ) -> None:
        self._memory = memory
        self._backlogs = backlogs
        self._decide = decide
        self._unwanted = unwanted
        self._leave = leave
        self._caught_up = caught_up
        self._loop = asyncio.get_running_loop()
        self._keys: dict[tuple[str, str], OrderedKey[TaskRun]] = {}
        self._by_name: dict[str, OrderedKey[TaskRun]] = {}
        self._aside: dict[LogPosition, OrderedKey[TaskRun]] = {}
        self._returning: dict[LogPosition, OrderedKey[TaskRun]] = {}
        self._timers: dict[TaskRun, asyncio.TimerHandle | None] = {}  # of those that wait in memory, their deadline's
        self._soon: deque[OrderedKey[TaskRun]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._looking = self._closed = False

    def __len__(self) -> int:
        """Keys with a task that has not ended."""
        return len(self._keys)

    @property
    def room(self) -> bool:
        """Whether another task may come."""
        return len(self._keys) < MAX_KEYS

    def waits(self, run: TaskRun) -> bool:
        """Whether it waits in memory for its turn."""
        return run in self._timers

    def enter(self, run: TaskRun) -> bool:
        """Whether the task may continue now; if not, it waits here."""
        ordered = run.ordered
        if ordered is None:
            ordered = self._returning.pop(LogPosition(run.source, run.offset), None)
            if ordered is not None:
                ordered.head, ordered.at, run.ordered = run, None, ordered
                return True
            ordered = self._ordered(run)
            if ordered.busy or len(ordered) or ordered.stored or not self._may_begin():
                if self._unwanted(run):
                    self._look_soon(
                        ordered
                    )  # it may be the last one left on its topic: tasks on another topic continue
                    return True
                self._wait(run, ordered)
                return False
            run.ordered, ordered.head, ordered.busy = ordered, run, True
        return ordered.head is run or self._unwanted(run)

    def left(self, run: TaskRun) -> None:
        """The task has ended, or moved. If it had the turn, the next task gets it: soon, not at once."""
        ordered, run.ordered = run.ordered, None
        if ordered is None:
            return
        if ordered.head is run:
            self._release(ordered)
        else:
            self._take_out(run, ordered)
            self._look_soon(ordered)

    def set_aside(self, run: TaskRun) -> None:
        """The task's record stays on its topic and will be read again. A task that has its turn keeps it."""
        ordered, run.ordered = run.ordered, None
        if ordered is not None and ordered.head is run:
            ordered.head, ordered.at = None, LogPosition(run.source, run.offset)
            ordered.head_topic = run.first_record.topic
            self._aside[ordered.at] = ordered

    def returns(self, source: str, offset: int) -> None:
        """A record that stayed on its topic is processed again now; `returned` follows."""
        ordered = self._aside.pop(position := LogPosition(source, offset), None)
        if ordered is not None:
            self._returning[position] = ordered

    def returned(self, source: str, offset: int) -> None:
        """The record was processed, or is gone. If it was refused, it loses its turn."""
        ordered = self._returning.pop(LogPosition(source, offset), None)
        if ordered is not None:
            self._release(ordered)

    def loaded(self, name: str) -> None:
        """Tasks that were left on their topic were read back."""
        ordered = self._by_name.get(name)
        if ordered is not None:
            self._look_soon(ordered)

    def may_relocate(self, run: TaskRun) -> bool:
        """Whether the record may be written to the end of `parked`: only after those of its key that come before it.

        Otherwise the next owner would read it before them.
        """
        ordered = run.ordered
        if ordered is None or ordered.head is run:
            return True
        if (
            ordered.head is not None
            and not is_relocated(ordered.head)
            and run.first_record.topic == ordered.head.first_record.topic
        ):
            return False
        if ordered.at is not None and ordered.at.topic != "parked" and ordered.head_topic == run.first_record.topic:
            return False
        name = ordered.name(run.first_record.topic)
        if self._backlogs.is_loading(name) or self._backlogs.any_before(name, run.first_record.offset, "parked"):
            return False
        return all(map(is_relocated, ordered.before(run.first_record)))

    def relocated(self, run: TaskRun) -> None:
        """The record of a task that waits in memory is on `parked` now. Of more than a few such tasks, the last ones
        wait on their topic.
        """
        ordered = run.ordered
        if ordered is None:
            return
        topic = run.first_record.topic
        while ordered.count(topic) > KEEP:
            last = ordered.last(topic)
            if last is None or last.token is not None:
                return
            self._take_out(last, ordered)
            self._store(last, ordered)

    def followers(self, run: TaskRun) -> list[TaskRun]:
        """The tasks in memory that wait behind others of its key, in order."""
        return [] if run.ordered is None else self._followers(run.ordered)

    def followers_named(self, name: str) -> list[TaskRun]:
        """The same for the key whose tasks were left on their topic under this name."""
        ordered = self._by_name.get(name)
        return [] if ordered is None else self._followers(ordered)

    @staticmethod
    def _followers(ordered: OrderedKey[TaskRun]) -> list[TaskRun]:
        return [waiting for topic in TOPICS for waiting in ordered.before(LogPosition(topic, 1 << 62))]

    def close(self) -> None:
        """Forget everything. `DispatchHandler.close` releases the memory."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._timers.values():
            if timer is not None:
                timer.cancel()
        for held in (self._keys, self._by_name, self._aside, self._returning, self._timers, self._soon):
            held.clear()

    # Waiting

    def _ordered(self, run: TaskRun) -> OrderedKey[TaskRun]:
        scope, key = scope_of(run), run.ordering_key or ""
        ordered = self._keys.get((scope, key))
        if ordered is None:
            ordered = self._keys[scope, key] = OrderedKey(scope, key)
        return ordered

    def _wait(self, run: TaskRun, ordered: OrderedKey[TaskRun]) -> None:
        """Wait in memory, or else on the topic."""
        topic, held_for = run.first_record.topic, PREFIX + ordered.scope
        # A task that was read back gets its turn soon; one whose record is being relocated has no place on its topic.
        if run.reloaded != ordered.name(topic) and run.token is None:
            full = ordered.count(topic) >= KEEP or len(self._timers) >= MAX_IN_MEMORY or topic in ordered.stored
            if full or not self._memory.room_for(held_for, KEEP, run.size):
                self._memory.release(run)
                self._store(run, ordered)
                return
        run.ordered = ordered
        self._memory.hold(run, held_for)
        ordered.add(run.first_record, run)
        self._timers[run] = None if isinf(run.deadline) else self._loop.call_at(run.deadline, self._due, run)
        self._look_soon(ordered)

    def _store(self, run: TaskRun, ordered: OrderedKey[TaskRun]) -> None:
        name = ordered.name(run.first_record.topic)
        run.ordered = None
        if run.first_record.topic not in ordered.stored:
            ordered.stored += (run.first_record.topic,)
        self._by_name[name] = ordered
        self._backlogs.add(name, run, float(run.first_record.offset))
        self._leave(run)
        self._look_soon(ordered)
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(CHECK_S, self._check)

    def _take_out(self, run: TaskRun, ordered: OrderedKey[TaskRun]) -> None:
        ordered.remove(run.first_record, run)
        timer = self._timers.pop(run, None)
        if timer is not None:
            timer.cancel()
        self._memory.release(run)

    def _due(self, run: TaskRun) -> None:
        """The deadline has passed: end the task without a turn."""
        if run not in self._timers or self._closed:
            return
        self._timers[run] = None
        self._decide(run)
        if run in self._timers:  # the wall clock is a little behind
            self._timers[run] = self._loop.call_later(RECHECK_S, self._due, run)

    def _check(self) -> None:
        self._timer = None
        self._backlogs.load_expired(self._loop.time())
        if self._by_name and not self._closed:
            self._timer = self._loop.call_later(CHECK_S, self._check)

    # Turns

    def _may_begin(self) -> bool:
        if not self._begun:
            self._begun = self._caught_up()
        return self._begun

    def _release(self, ordered: OrderedKey[TaskRun]) -> None:
        ordered.head = ordered.at = None
        ordered.release()
        self._look_soon(ordered)

    def _look_soon(self, ordered: OrderedKey[TaskRun]) -> None:
        if ordered.busy or ordered.queued or self._closed:
            return
        if self._tidy(ordered):
            return
        ordered.queued = True
        self._soon.append(ordered)
        self._look_later()

    def _look_later(self) -> None:
        if not self._looking and self._soon and not self._closed:
            self._looking = True
            if self._may_begin():
                self._loop.call_soon(self._look)
            else:
                self._loop.call_later(CATCH_UP_S, self._look)

    def _look(self) -> None:
        """Give turns, a few in one turn of the loop."""
        self._looking = False
        for _ in range(min(TURN, len(self._soon))):
            if self._closed or not self._may_begin():
                break
            ordered = self._soon.popleft()
            ordered.queued = False
            self._give_turn(ordered)
        self._look_later()

    def _give_turn(self, ordered: OrderedKey[TaskRun]) -> None:
        found = ordered.next(lambda topic: self._first_stored(ordered, topic))
        if found.item is not None:
            run = found.item
            self._take_out(run, ordered)
            ordered.head = run
            self._decide(run)
        elif found.topic is not None:
            self._backlogs.load(ordered.name(found.topic), KEEP)
        else:
            self._tidy(ordered)

    def _first_stored(self, ordered: OrderedKey[TaskRun], topic: str) -> float | None:
        if topic not in ordered.stored:
            return None
        name = ordered.name(topic)
        first = self._backlogs.first(name)
        if first is None and not self._backlogs.waiting(name):
            ordered.stored = tuple(other for other in ordered.stored if other != topic)
            del self._by_name[name]
        elif first is None or self._backlogs.is_loading(name):
            return READING
        return first

    def _tidy(self, ordered: OrderedKey[TaskRun]) -> bool:
        """Forget a key without tasks."""
        if ordered.busy or len(ordered) or ordered.queued:
            return False
        if any(self._first_stored(ordered, topic) is not None for topic in ordered.stored):
            return False
        if self._keys.get((ordered.scope, ordered.key)) is ordered:
            del self._keys[ordered.scope, ordered.key]
        return True


def scope_of(run: TaskRun) -> str:
    """The scope of an ordering key: the agent; until one is chosen, all tasks that name none. A judge's calls are
    separate.
    """
    if run.judged is not None:
        return f"\0judge {run.judged.judge} {run.judged.agent_id}"
    if run.any_agent:
        return run.chosen
    return run.task.target or "" if run.task.type == "agent" else builtin_id(run.task)


def is_relocated(run: TaskRun) -> bool:
    """Whether the task's record is on `parked`, or on the way there."""
    return run.source == "parked" or run.token is not None
