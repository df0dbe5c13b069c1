"""The records that every role writes: events, registrations, dead letters, and records that move to another topic.
Pure.

In: what happened. Out: `Output`s whose values and headers follow the contracts (binary CloudEvents). Event ids follow
from the event's subject, so an event sent twice is the same event. Results and data points: `task_records.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from schemas.codec import JSON_CONTENT, SPEC_VERSION, dumps, pack
from schemas.dead_letter_headers import OMITTED_HEADER, Rejection, dlq_headers
from schemas.messages import AgentRegistration, EventType
from schemas.times import format_time
from schemas.topics import BY_NAME, event_ce_type, full_name
from streams.rules.source_record import (
    ATTEMPTS_HEADER,
    EXPIRES_HEADER,
    GO_ALONG,
    INTERNAL_SOURCES,
    ORIGIN_HEADER,
    OWN_HEADERS,
    SourceRecord,
)

LARGE_BYTES = 64 * 1024
"""Larger outputs have a smaller form, in case the broker's limit is lower than configured."""


@dataclass(slots=True)
class Output:
    """One record to write. `topic`: short name. `partition`: None lets the key decide, like Kafka's default
    partitioner.

    `fallback`: what to write instead if the broker finds it too large.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    partition: int | None = None
    fallback: Output | None = None

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        size = len(self.value or b"") + len(self.key or b"")
        for name, value in self.headers:
            size += len(name) + len(value or b"") + 4
        return size


@dataclass(slots=True, frozen=True)
class Carried:
    """The history that a task's next record carries. `origin_ms`: the timestamp of its first record, epoch ms.

    `deadline_ms`: epoch ms; None without one. `attempts`: those used up.
    """

    origin_ms: int
    deadline_ms: int | None = None
    attempts: int = 0

    def own_headers(self) -> dict[str, str]:
        own_headers = {ORIGIN_HEADER: str(self.origin_ms)}
        if self.deadline_ms is not None:
            own_headers[EXPIRES_HEADER] = str(self.deadline_ms)
        if self.attempts:
            own_headers[ATTEMPTS_HEADER] = str(self.attempts)
        return own_headers


_event_ce_type = lru_cache(maxsize=64)(event_ce_type)


class Recorder:
    """Builds the records of one processor. `source`: the CloudEvents source, `/parallax/<app>/<processor>`."""

    def __init__(self, *, app_id: str, processor: str, prefix: str, group: str) -> None:
        self._source = f"/parallax/{app_id}/{processor}".encode()
        self._prefix = prefix
        self._group = group
        self._types: dict[str, bytes] = {}

    def _headers(self, ce_type: str, ce_id: bytes, subject: bytes, when: bytes) -> list[tuple[str, bytes]]:
        kind = self._types.get(ce_type)
        if kind is None:
            kind = self._types[ce_type] = ce_type.encode()
        return [
            SPEC_VERSION,
            ("ce_id", ce_id),
            ("ce_source", self._source),
            ("ce_type", kind),
            ("ce_time", when),
            ("ce_subject", subject),
            JSON_CONTENT,
        ]

    def event(self, event_type: EventType, subject: str, data: dict[str, Any], now_ms: int, tail: str = "") -> Output:
        """One lifecycle event about `subject` (task, plan or agent id). `tail` distinguishes events of one type."""
        when = format_time(now_ms)
        event_id = f"{subject}/{event_type}{tail}"
        key = subject.encode()
        value = pack({"id": event_id, "type": event_type, "timestamp": when, "data": data})
        return Output(
            "events", key, value, self._headers(_event_ce_type(event_type), event_id.encode(), key, when.encode())
        )

    def message(self, topic: str, key: str, value: bytes, now_ms: int) -> Output:
        """A record of the topic's own message, whose id is its key."""
        subject = key.encode()
        headers = self._headers(BY_NAME[topic].ce_type, subject, subject, format_time(now_ms).encode())
        return Output(topic, subject, value, headers)

    def registration(self, agent_id: str, agent: AgentRegistration | None, now_ms: int) -> Output:
        """An agent's registration from now on; None: removed."""
        key = agent_id.encode()
        if agent is None:
            return Output("agents", key, None)
        when = format_time(now_ms).encode()
        headers = self._headers(BY_NAME["agents"].ce_type, f"{agent_id}/{now_ms}".encode(), key, when)
        return Output("agents", key, dumps(agent.wire()), headers)

    def dead_letter(self, record: SourceRecord, stage: str, reason: str, now_ms: int) -> list[Output]:
        """The original bytes on the dead-letter topic, and `task:dead-lettered` with their origin."""
        origin = full_name(record.topic, self._prefix)
        why = Rejection(origin, record.partition, record.offset, self._group, stage, reason, format_time(now_ms))
        own_headers = [(name, text.encode("utf-8", "replace")) for name, text in dlq_headers(why).items()]
        headers = [h for h in record.headers if h[0] not in OWN_HEADERS]
        topic = f"dlq.{record.topic}"
        place = f"{origin}/{record.partition}/{record.offset}"
        output = Output(topic, record.key, record.value, headers + own_headers)
        if output.size > LARGE_BYTES:
            own_headers.append((OMITTED_HEADER, str(len(record.value or b"")).encode()))
            output.fallback = Output(topic, record.key, None, headers + own_headers)
            output.fallback.fallback = Output(topic, None, None, own_headers)
        data = {"topic": origin, "partition": record.partition, "offset": record.offset, "reason": reason}
        return [output, self.event("task:dead-lettered", place, data, now_ms)]

    def duplicate(self, record: SourceRecord, task_id: str, now_ms: int) -> Output:
        """`task:duplicate`: this record's task id was answered already, or will be."""
        place = {"topic": full_name(record.topic, self._prefix), "partition": record.partition, "offset": record.offset}
        tail = f"/{record.topic}/{record.partition}/{record.offset}"
        return self.event("task:duplicate", task_id, {"taskId": task_id, **place}, now_ms, tail=tail)

    def _moved(
        self, topic: str, key: str, record: SourceRecord, own_headers: dict[str, str], partition: int, now_ms: int
    ) -> Output:
        go_along = GO_ALONG if record.topic in INTERNAL_SOURCES else ()
        headers = [h for h in record.headers if h[0] not in OWN_HEADERS or h[0] in go_along]
        headers += [(name, value.encode()) for name, value in own_headers.items()]
        output = Output(topic, key.encode(), record.value, headers, partition=partition)
        if output.size > LARGE_BYTES:
            reason = f"the record of {output.size} bytes is larger than the {topic} topic accepts"
            output.fallback = self.dead_letter(record, "emit", reason, now_ms)[0]
        return output
