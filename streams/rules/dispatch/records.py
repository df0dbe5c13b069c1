"""The records that dispatch writes: for tasks that ended, and for tasks that move (the same bytes, other headers).
Pure.

In: what happened to a task. Out: `Output`s.
"""

from __future__ import annotations

from streams.rules.records import Carried, Output
from streams.rules.source_record import (
    AGENT_HEADER,
    CANCELLED_HEADER,
    HOPS_HEADER,
    JUDGED_HEADER,
    MOVED_HEADER,
    NOT_BEFORE_HEADER,
    ORDER_HEADER,
    TASK_HEADER,
    SourceRecord,
)
from streams.rules.task_records import TaskRecorder

RELOCATABLE_BYTES = 512 * 1024


class DispatchRecorder(TaskRecorder):
    """Builds dispatch's records."""

    def forward(
        self,
        record: SourceRecord,
        key: str,
        agent_id: str | None,
        carried: Carried,
        hops: int,
        partition: int,
        now_ms: int,
        cancel_reason: str | None = None,
    ) -> Output:
        """The same bytes to another partition, with the agent, if one is chosen. `cancel_reason`: the task will be
        cancelled there.
        """
        own_headers = carried.own_headers() | {HOPS_HEADER: str(hops)}
        if agent_id is not None:
            own_headers[AGENT_HEADER] = agent_id
        if cancel_reason is not None:
            own_headers[CANCELLED_HEADER] = cancel_reason
        return self._moved("dispatch", key, record, own_headers, partition, now_ms)

    def to_judge(
        self, record: SourceRecord, judge: str, judged: bytes, carried: Carried, partition: int, now_ms: int
    ) -> Output:
        """The same bytes and the answer to the partition that owns the judge. `judged`: the answer, as a header."""
        output = self._moved("dispatch", judge, record, carried.own_headers() | {HOPS_HEADER: "0"}, partition, now_ms)
        output.headers = [h for h in output.headers if h[0] != JUDGED_HEADER] + [(JUDGED_HEADER, judged)]
        return output

    def schedule(
        self,
        record: SourceRecord,
        task_id: str,
        not_before_ms: int,
        agent_id: str,
        carried: Carried,
        partition: int,
        now_ms: int,
    ) -> Output:
        """The same bytes to the topic `scheduled`, until their time. `agent_id`: empty while none is chosen. `task_id`:
        the id under which the task is answered once, see `TaskRun.claimed_id`.

        Each record has its own key: a second one of the same task must not replace the first. `record` may be read and
        written again later, so the key also has the time of writing: the tombstone of the later copy, which is a
        duplicate, must not remove the earlier one.
        """
        key = f"{record.topic}/{record.partition}/{record.offset}/{now_ms}/{task_id}"
        own_headers = carried.own_headers() | {TASK_HEADER: task_id, NOT_BEFORE_HEADER: str(not_before_ms)}
        if agent_id:
            own_headers[AGENT_HEADER] = agent_id
        return self._moved("scheduled", key, record, own_headers, partition, now_ms)

    def relocate(
        self,
        record: SourceRecord,
        task_id: str,
        agent_id: str,
        carried: Carried,
        token: str,
        now_ms: int,
        first_record: str = "",
    ) -> Output:
        """The same bytes to the end of the `parked` topic of the same partition, so the commit can pass the record.

        `token`: shows the owner which of its tasks the new record continues. `agent_id`: empty while none is chosen.
        `first_record`: the position of the first record, for a task with an ordering key.
        """
        own_headers = carried.own_headers() | {AGENT_HEADER: agent_id, TASK_HEADER: task_id, MOVED_HEADER: token}
        if first_record:
            own_headers[ORDER_HEADER] = first_record
        output = self._moved("parked", agent_id or task_id, record, own_headers, record.partition, now_ms)
        if output.size <= RELOCATABLE_BYTES:  # `tasks` took the record, and `parked` takes the same sizes
            output.fallback = None
        return output
