"""The tasks of one partition that have not ended: by record, by task id, and by the digest under which an id is
answered once.

In: task runs as they come, move and end. Out: which of two records with one task id answers it. A run whose record is
relocated continues; its end is kept until the new record has come. It writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from streams.dispatch.task_run import TaskRun
from streams.rules.dedup_window import DedupWindow, digest
from streams.rules.records import Output
from streams.rules.source_record import SourceRecord


class InFlightTasks:
    """`answered`: ids answered before, by this owner or an earlier one; `wall_ms`: epoch ms."""

    def __init__(self, answered: DedupWindow, wall_ms: Callable[[], int]) -> None:
        self._answered = answered
        self._wall_ms = wall_ms
        self._by_record: dict[tuple[str, int], TaskRun] = {}
        self._by_task: dict[str, list[TaskRun]] = {}
        self._claims: dict[bytes, TaskRun] = {}
        self._relocating: dict[str, TaskRun] = {}

    def __len__(self) -> int:
        return len(self._by_record)

    def all(self) -> list[TaskRun]:
        """Every task that has not ended."""
        return list(self._by_record.values())

    def add(self, run: TaskRun) -> None:
        """A task begins here."""
        self._by_record[run.source, run.offset] = run
        self._by_task.setdefault(run.task_id, []).append(run)

    def at(self, source: str, offset: int) -> TaskRun | None:
        """The run of a record."""
        return self._by_record.get((source, offset))

    def of(self, task_id: str) -> list[TaskRun]:
        """The runs of a task id, in order of arrival: one id may be sent for several agents."""
        return list(self._by_task.get(task_id, ()))

    def claim(self, run: TaskRun, scope: str, outlives: bool = False) -> bool:
        """Whether this record answers its task id; any other record is a duplicate.

        `scope`: the agent, or empty for any agent. `outlives`: the id counts as answered here also after the task
        moved.
        """
        claimed = digest(scope, run.claimed_id)
        owner = self._claims.get(claimed)
        if owner is run:
            return True
        if owner is not None or self._answered.has(claimed, self._wall_ms()):
            return False
        self._claims[claimed] = run
        run.claims.append((claimed, outlives))
        return True

    def release(self, run: TaskRun, scope: str) -> None:
        """The task is not answered in this scope after all, but stays here."""
        released = digest(scope, run.claimed_id)
        if self._claims.get(released) is run:
            del self._claims[released]
            run.claims = [claim for claim in run.claims if claim[0] != released]

    def release_all(self, run: TaskRun) -> None:
        """The task is not answered here: its id is free."""
        while run.claims:
            self._claims.pop(run.claims.pop()[0], None)

    def relocate(self, run: TaskRun, token: str) -> None:
        """End the record and keep the run: the record that carries `token` replaces it.

        If that record names an agent, another owner does not check the id again, so it must find the id answered.
        """
        if run.agent_id or run.chosen:
            for claimed, outlives in run.claims:
                if outlives:
                    self._answered.add(claimed, self._wall_ms())
        run.token = token
        self._relocating[token] = run

    def arrived(self, token: str | None, record: SourceRecord) -> TaskRun | None:
        """The run that this record continues, if it is one of this owner's."""
        run = None if token is None else self._relocating.pop(token, None)
        if run is None:
            return None
        self._by_record.pop((run.source, run.offset), None)
        run.source, run.offset, run.record, run.token = record.topic, record.offset, record, None
        self._by_record[run.source, run.offset] = run
        return run

    def end(self, run: TaskRun, outputs: list[Output], moved: bool) -> bool:
        """End a record. `moved`: the task continues elsewhere, its id is still free there. False: not yet, or not
        again.
        """
        if self._by_record.get((run.source, run.offset)) is not run:
            return False
        if run.token is not None:
            run.ending = outputs, moved
            return False
        for claimed, outlives in run.claims:
            self._claims.pop(claimed, None)
            if outlives or not moved:
                self._answered.add(claimed, self._wall_ms())
        self._forget(run)
        return True

    def leave(self, run: TaskRun) -> None:
        """The record stays on its topic, as if it had not been read."""
        self.release_all(run)
        self._forget(run)

    def clear(self) -> None:
        for held in (self._by_record, self._by_task, self._claims, self._relocating):
            held.clear()

    def _forget(self, run: TaskRun) -> None:
        del self._by_record[run.source, run.offset]
        runs = self._by_task[run.task_id]
        runs.remove(run)
        if not runs:
            del self._by_task[run.task_id]
