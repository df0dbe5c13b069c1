"""The tasks of one home that are not finished: by record, by task id, and by the digest under which an id is answered once.

In: jobs as they come, move and end. Out: which of two records with one task id answers it. A job whose call is under way may move
to another record; its end is kept until that record has come back. It writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from streams.dispatch.jobs import Job
from streams.rules.records import Letter, Output
from streams.rules.seen import SeenIds, digest


class JobBook:
    """`seen`: ids answered before, by this owner or an earlier one; `wall_ms`: epoch ms."""

    def __init__(self, seen: SeenIds, wall_ms: Callable[[], int]) -> None:
        self._seen = seen
        self._wall_ms = wall_ms
        self._jobs: dict[tuple[str, int], Job] = {}
        self._by_task: dict[str, Job] = {}
        self._claims: dict[bytes, Job] = {}
        self._moving: dict[str, Job] = {}

    def add(self, job: Job) -> None:
        """A task begins here."""
        self._jobs[job.source, job.offset] = job
        self._by_task.setdefault(job.task.id, job)

    def at(self, source: str, offset: int) -> Job | None:
        """The job of a record."""
        return self._jobs.get((source, offset))

    def of(self, task_id: str) -> Job | None:
        """The job of a task id: the first of them if there are several."""
        return self._by_task.get(task_id)

    def claim(self, job: Job, scope: str, outlives: bool = False) -> bool:
        """Whether this job's record is the one that answers its task id; any other is a duplicate."""
        claimed = digest(scope, job.claimed_id)
        owner = self._claims.get(claimed)
        if owner is job:
            return True
        if owner is not None or self._seen.has(claimed):
            return False
        self._claims[claimed] = job
        job.claims.append((claimed, outlives))
        return True

    def release(self, job: Job, scope: str) -> None:
        """It will not be answered in this scope after all, but it goes on here."""
        released = digest(scope, job.claimed_id)
        if self._claims.get(released) is job:
            del self._claims[released]
            job.claims = [claim for claim in job.claims if claim[0] != released]

    def disclaim(self, job: Job) -> None:
        """It will not be answered here: its id is free."""
        while job.claims:
            self._claims.pop(job.claims.pop()[0], None)

    def move(self, job: Job, token: str) -> None:
        """Its record ends, its call goes on: the record that carries `token` takes its place."""
        job.token = token
        self._moving[token] = job

    def arrived(self, token: str | None, letter: Letter) -> Job | None:
        """The job that this record carries on, if it is one of this owner's."""
        job = None if token is None else self._moving.pop(token, None)
        if job is None:
            return None
        del self._jobs[job.source, job.offset]
        job.source, job.offset, job.letter, job.token = letter.topic, letter.offset, letter, None
        self._jobs[job.source, job.offset] = job
        return job

    def end(self, job: Job, outputs: list[Output], moved: bool) -> bool:
        """A record's end; `moved`: the task goes on elsewhere, its id is still free there. False: not yet, or not again."""
        if self._jobs.get((job.source, job.offset)) is not job:
            return False
        if job.token is not None:
            job.outcome = outputs, moved
            return False
        for claimed, outlives in job.claims:
            self._claims.pop(claimed, None)
            if outlives or not moved:
                self._seen.add(claimed, self._wall_ms())
        self._forget(job)
        return True

    def rest(self, job: Job) -> None:
        """Its record is held again, as if it had not begun."""
        self.disclaim(job)
        self._forget(job)

    def clear(self) -> None:
        """Forget everything."""
        for held in (self._jobs, self._by_task, self._claims, self._moving):
            held.clear()

    def _forget(self, job: Job) -> None:
        del self._jobs[job.source, job.offset]
        if self._by_task.get(job.task.id) is job:
            del self._by_task[job.task.id]
