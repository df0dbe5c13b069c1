"""Every record dispatch writes, built in one place: results, data points, events, dead letters, forwards. Pure.

In: what happened to a task. Out: `Output`s whose values and headers are as the contracts say (binary CloudEvents).
Event ids are made of the task id, so that an event sent twice is the same event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from schemas.codec import JSON_CONTENT, SPEC_VERSION, dumps, pack
from schemas.exact_json import loads
from schemas.messages import AgentRegistration, EventType, Task, TaskError
from schemas.times import format_time
from schemas.topics import BY_NAME, event_ce_type, full_name
from streams.rules.source_record import (
    AGENT_HEADER,
    ATTEMPTS_HEADER,
    CANCELLED_HEADER,
    EXPIRES_HEADER,
    GO_ALONG,
    HOPS_HEADER,
    INTERNAL_SOURCES,
    JUDGED_HEADER,
    MOVED_HEADER,
    NOT_BEFORE_HEADER,
    ORDER_HEADER,
    ORIGIN_HEADER,
    OWN_HEADERS,
    TASK_HEADER,
    SourceRecord,
)
from streams.rules.usage import Prices, used

RESULT_TYPE = BY_NAME["results"].ce_type
POINT_TYPE = BY_NAME["data-points"].ce_type
STATUS_BY_CODE = {"timeout": "timeout", "expired": "timeout", "cancelled": "cancelled"}
RELOCATABLE_BYTES = 512 * 1024
LARGE_BYTES = 64 * 1024
"""Outputs beyond this carry a smaller form, in case the broker's limit is lower than the worker was told."""


EchoedMetadata = dict[str, Any] | orjson.Fragment
"""A task's metadata as its result repeats it; as a fragment it is JSON already."""


@dataclass(slots=True)
class Output:
    """One record to write. `topic`: short name. `partition`: None lets the key decide, as Kafka's default partitioner would.

    `fallback`: what to write in its place when the broker finds it too large.
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
class Success:
    """An answer: `value_json` is the agent's value as JSON bytes; `confidence` in [0, 1].

    `metadata_json`: an object with the other members of the agent's answer, as JSON bytes; empty if there are none.
    """

    value_json: bytes
    confidence: float
    metadata_json: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of JSON."""
        return len(self.value_json) + len(self.metadata_json)


NO_PRICES = Prices()


@dataclass(slots=True, frozen=True)
class Timing:
    """What a task took. `execution_ms`: first call to end; `wait_ms`: its record's timestamp to the first call, or to the end.

    `call_ms`: the last call alone.
    """

    execution_ms: float
    retries: int = 0
    call_ms: float | None = None
    wait_ms: float | None = None


@dataclass(slots=True, frozen=True)
class Carried:
    """What a task's next record says of the time before it. `origin_ms`: the timestamp of its first record, epoch ms.

    `deadline_ms`: epoch ms; None: there is none. `attempts`: those used up.
    """

    origin_ms: int
    deadline_ms: int | None = None
    attempts: int = 0

    def own_headers(self) -> dict[str, str]:
        """As headers."""
        own_headers = {ORIGIN_HEADER: str(self.origin_ms)}
        if self.deadline_ms is not None:
            own_headers[EXPIRES_HEADER] = str(self.deadline_ms)
        if self.attempts:
            own_headers[ATTEMPTS_HEADER] = str(self.attempts)
        return own_headers


def _waited(timing: Timing) -> dict[str, float]:
    return {} if timing.wait_ms is None else {"waitTime": round(timing.wait_ms, 3)}


_event_ce_type = lru_cache(maxsize=64)(event_ce_type)


class Recorder:
    """Builds the records of one processor. `source`: the CloudEvents source, `/parallax/<app>/<processor>`."""

    def __init__(self, app_id: str, processor: str, prefix: str, group: str, prices: Prices = NO_PRICES) -> None:
        self._source = f"/parallax/{app_id}/{processor}".encode()
        self._prices = prices
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
        """One lifecycle event about `subject` (task, plan or agent id). `tail` tells apart events of one type."""
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
        """An agent as it is registered from now on; None: no longer."""
        key = agent_id.encode()
        if agent is None:
            return Output("agents", key, None)
        when = format_time(now_ms).encode()
        headers = self._headers(BY_NAME["agents"].ce_type, f"{agent_id}/{now_ms}".encode(), key, when)
        return Output("agents", key, dumps(agent.wire()), headers)

    def succeeded(
        self,
        task: Task,
        echo: EchoedMetadata,
        agent_id: str,
        answer: Success,
        timing: Timing,
        cached: bool,
        now_ms: int,
        calibrated: float | None = None,
    ) -> list[Output]:
        """Result, data point (none for a cached answer: no agent spoke) and `task:completed`. `echo`: the task's metadata."""
        value = orjson.Fragment(answer.value_json)
        execution_ms = round(timing.execution_ms, 3)
        result = self._result(
            task,
            echo,
            {
                "status": "success",
                "result": value,
                "confidence": answer.confidence,
                **({} if calibrated is None else {"calibratedConfidence": calibrated}),
                "agentId": agent_id,
                "executionTime": execution_ms,
                **_waited(timing),
                "retries": timing.retries,
                "cached": cached,
            },
            now_ms,
            answer,
        )
        data = {"taskId": task.id, "result": value, "confidence": answer.confidence, "executionTime": execution_ms}
        completed = self.event("task:completed", task.id, data, now_ms)
        if len(answer.value_json) > LARGE_BYTES:
            data.pop("result")
            completed.fallback = self.event("task:completed", task.id, data, now_ms)
            error = TaskError(
                code="too_large",
                message=f"the answer of {len(answer.value_json)} bytes is larger than the results topic accepts",
                retryable=False,
                agent_id=agent_id,
            )
            # Large metadata are given up before the answer is.
            last = result
            while last.fallback is not None:
                last = last.fallback
            last.fallback = self.failed(task, {} if _is_large(echo) else echo, error, timing, now_ms)[0]
        outputs = [result, completed]
        if not cached:
            spent = used(answer.metadata_json, agent_id, self._prices)
            outputs.append(self._point(task, agent_id, answer.confidence, True, timing, now_ms, spent))
        return outputs

    def failed(
        self,
        task: Task,
        echo: EchoedMetadata,
        error: TaskError,
        timing: Timing,
        now_ms: int,
        spoke: bool = False,
        status: str | None = None,
    ) -> list[Output]:
        """Result and `task:failed` (or `task:expired`, `task:cancelled`). `status`: as the error's code says, if none is given.

        A data point too if an agent was called and the failure is its own (`spoke`).
        """
        status = status or STATUS_BY_CODE.get(error.code, "failure")
        execution_ms = round(timing.execution_ms, 3)
        body: dict[str, Any] = {"status": status, "error": error.wire()}
        if error.agent_id is not None:
            body["agentId"] = error.agent_id
        body |= {"executionTime": execution_ms, **_waited(timing), "retries": timing.retries, "cached": False}
        ended: EventType = "task:failed"
        if error.code == "expired":
            ended = "task:expired"
        elif status == "cancelled":
            ended = "task:cancelled"
        data = {"taskId": task.id, "error": error.wire(), "retries": timing.retries}
        outputs = [self._result(task, echo, body, now_ms), self.event(ended, task.id, data, now_ms)]
        if spoke and error.agent_id is not None:
            outputs.append(self._point(task, error.agent_id, 0.0, False, timing, now_ms))
        return outputs

    def _result(
        self, task: Task, echo: EchoedMetadata, body: dict[str, Any], now_ms: int, answer: Success | None = None
    ) -> Output:
        """Its smaller forms leave out what makes it large: `metadata.answer` first, then all metadata."""
        when = format_time(now_ms)
        wire: dict[str, Any] = {"taskId": task.id}
        if task.plan_id is not None:
            wire["planId"] = task.plan_id
        wire |= body
        wire["timestamp"] = when
        wire["metadata"] = echo if answer is None else with_answer(echo, answer.metadata_json)
        subject = task.id.encode()
        key = subject if task.plan_id is None else task.plan_id.encode()
        headers = self._headers(RESULT_TYPE, subject, subject, when.encode())
        value = pack(wire)
        output = Output("results", key, value, headers)
        last = output
        value_bytes = 0
        if answer is not None:
            value_bytes = len(answer.value_json)
            if answer.metadata_json and len(value) - value_bytes > LARGE_BYTES:
                last.fallback = last = Output("results", key, pack(wire | {"metadata": echo}), headers)
        if len(last.value or b"") - value_bytes > LARGE_BYTES:
            last.fallback = Output("results", key, pack(wire | {"metadata": {}}), headers)
        return output

    def _point(
        self,
        task: Task,
        agent_id: str,
        confidence: float,
        success: bool,
        timing: Timing,
        now_ms: int,
        spent: dict[str, Any] | None = None,
    ) -> Output:
        """`spent`: what the answer used up, see `usage.py`."""
        when = format_time(now_ms)
        key = agent_id.encode()
        value = {
            "agentId": agent_id,
            "patternName": task.metadata.pattern_name or (task.target if task.type == "pattern" else None) or "",
            "taskType": task.type,
            "confidence": confidence,
            "success": success,
            "timestamp": when,
            "executionTime": round(timing.execution_ms if timing.call_ms is None else timing.call_ms, 3),
            **_waited(timing),
            **(spent or {}),
            "taskId": task.id,
        }
        headers = self._headers(POINT_TYPE, task.id.encode(), key, when.encode())
        return Output("data-points", key, pack(value), headers)

    def dead_letter(self, record: SourceRecord, stage: str, reason: str, now_ms: int) -> list[Output]:
        """The original bytes on the dead-letter topic, and `task:dead-lettered` about where they came from."""
        own_headers = [
            ("__dlq.errors.topic", full_name(record.topic, self._prefix).encode()),
            ("__dlq.errors.partition", str(record.partition).encode()),
            ("__dlq.errors.offset", str(record.offset).encode()),
            ("__dlq.errors.group", self._group.encode()),
            ("__dlq.errors.delivery.count", b"1"),
            ("__dlq.errors.message", reason.encode("utf-8", "replace")),
            ("parallax.dlq.exception", b"Rejected"),
            ("parallax.dlq.stage", stage.encode()),
            ("parallax.dlq.time", format_time(now_ms).encode()),
        ]
        headers = [h for h in record.headers if h[0] not in OWN_HEADERS]
        topic = f"dlq.{record.topic}"
        place = f"{full_name(record.topic, self._prefix)}/{record.partition}/{record.offset}"
        output = Output(topic, record.key, record.value, headers + own_headers)
        if output.size > LARGE_BYTES:
            own_headers.append(("parallax.dlq.omitted_bytes", str(len(record.value or b"")).encode()))
            output.fallback = Output(topic, record.key, None, headers + own_headers)
            output.fallback.fallback = Output(topic, None, None, own_headers)
        data = {
            "topic": full_name(record.topic, self._prefix),
            "partition": record.partition,
            "offset": record.offset,
            "reason": reason,
        }
        return [output, self.event("task:dead-lettered", place, data, now_ms)]

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
        """The same bytes to another partition, with the agent chosen (if it is yet). `cancel_reason`: it is to end there."""
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
        """The same bytes to the topic `scheduled`, until their time has come. `agent_id`: empty while none is chosen.

        `task_id`: the id under which the task is answered once, see `TaskRun.claimed_id`.

        Each record has a key of its own: a second one of the same task must not replace the first. `record` may be read again
        and written again later, so the key also has the time of writing: the tombstone of the later copy, which is a duplicate,
        must not take back the earlier one.
        """
        key = f"{record.topic}/{record.partition}/{record.offset}/{now_ms}/{task_id}"
        own_headers = carried.own_headers() | {TASK_HEADER: task_id, NOT_BEFORE_HEADER: str(not_before_ms)}
        if agent_id:
            own_headers[AGENT_HEADER] = agent_id
        return self._moved("scheduled", key, record, own_headers, partition, now_ms)

    def duplicate(self, record: SourceRecord, task_id: str, now_ms: int) -> Output:
        """`task:duplicate`: this record's task id was answered already, or is about to be."""
        place = {"topic": full_name(record.topic, self._prefix), "partition": record.partition, "offset": record.offset}
        tail = f"/{record.topic}/{record.partition}/{record.offset}"
        return self.event("task:duplicate", task_id, {"taskId": task_id, **place}, now_ms, tail=tail)

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
        """The same bytes to the end of the `parked` topic of the same partition, so that the commit can pass the record.

        `token`: tells the owner which of its tasks the new record carries on. `agent_id`: empty while none is chosen.

        `first_record`: where the record lay first, if its task has an ordering key.
        """
        own_headers = carried.own_headers() | {AGENT_HEADER: agent_id, TASK_HEADER: task_id, MOVED_HEADER: token}
        if first_record:
            own_headers[ORDER_HEADER] = first_record
        output = self._moved("parked", agent_id or task_id, record, own_headers, record.partition, now_ms)
        if output.size <= RELOCATABLE_BYTES:  # `tasks` took the record, and `parked` takes the same sizes
            output.fallback = None
        return output

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


def with_answer(echo: EchoedMetadata, metadata_json: bytes) -> EchoedMetadata:
    """The task's metadata with the other members of the agent's answer as its member `answer`.

    >>> pack(with_answer(orjson.Fragment(b'{"mine":1}'), b'{"reasoning":"so"}'))
    b'{"mine":1,"answer":{"reasoning":"so"}}'
    """
    if not metadata_json:
        return echo
    told = pack(echo)
    if b'"answer"' in told:  # a member of the task's own by that name gives way
        told = dumps({name: value for name, value in loads(told).items() if name != "answer"})
    comma = b"," if len(told) > 2 else b""
    return orjson.Fragment(told[:-1] + comma + b'"answer":' + metadata_json + b"}")


def _is_large(echo: EchoedMetadata) -> bool:
    return len(pack(echo)) > LARGE_BYTES
