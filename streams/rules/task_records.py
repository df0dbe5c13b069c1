"""The records of a task's end: its result, its data point, its event. Pure.

In: the task, its answer or its error, its times. Out: `Output`s. One that may be too large for its topic has a smaller
form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from schemas.codec import dumps, pack
from schemas.exact_json import loads
from schemas.messages import EventType, Task, TaskError
from schemas.times import format_time
from schemas.topics import BY_NAME
from streams.rules.records import LARGE_BYTES, Output, Recorder
from streams.rules.usage import Prices, used

RESULT_TYPE = BY_NAME["results"].ce_type
POINT_TYPE = BY_NAME["data-points"].ce_type
_STATUS_BY_CODE = {"timeout": "timeout", "expired": "timeout", "cancelled": "cancelled"}

EchoedMetadata = dict[str, Any] | orjson.Fragment
"""A task's metadata as its result repeats it; as a fragment it is JSON already."""


def status_of_code(code: str) -> str:
    """The status of a result with this error code.

    >>> status_of_code("expired"), status_of_code("http_5xx")
    ('timeout', 'failure')
    """
    return _STATUS_BY_CODE.get(code, "failure")


@dataclass(slots=True, frozen=True)
class Success:
    """An answer: `value_json` is the agent's value as JSON bytes; `confidence` in [0, 1].

    `metadata_json`: an object with the other members of the agent's answer, as JSON bytes; empty without any.
    """

    value_json: bytes
    confidence: float
    metadata_json: bytes = b""

    @property
    def size(self) -> int:
        return len(self.value_json) + len(self.metadata_json)


NO_PRICES = Prices()


@dataclass(slots=True, frozen=True)
class Timing:
    """The times of a task, ms. `execution_ms`: first call to end; `wait_ms`: its record's timestamp to the first call,
    or to the end. `call_ms`: the last call alone.
    """

    execution_ms: float
    retries: int = 0
    call_ms: float | None = None
    wait_ms: float | None = None


def _waited(timing: Timing) -> dict[str, float]:
    return {} if timing.wait_ms is None else {"waitTime": round(timing.wait_ms, 3)}


class TaskRecorder(Recorder):
    """Builds the records of tasks that ended. `prices`: of tokens, for data points."""

    def __init__(self, *, app_id: str, processor: str, prefix: str, group: str, prices: Prices = NO_PRICES) -> None:
        super().__init__(app_id=app_id, processor=processor, prefix=prefix, group=group)
        self._prices = prices

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
        """Result, data point (none for a cached answer, without a call) and `task:completed`. `echo`: the task's
        metadata.
        """
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
            # Large metadata are dropped before the answer.
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
        """Result and `task:failed` (or `task:expired`, `task:cancelled`). `status`: by default that of the error's
        code.

        Also a data point, if an agent was called and the failure is its own (`spoke`).
        """
        status = status or status_of_code(error.code)
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
        """The smaller forms leave out large parts: `metadata.answer` first, then all metadata."""
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
        """`spent`: the answer's usage, see `usage.py`."""
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


def with_answer(echo: EchoedMetadata, metadata_json: bytes) -> EchoedMetadata:
    """The task's metadata with the other members of the agent's answer as its member `answer`.

    >>> pack(with_answer(orjson.Fragment(b'{"mine":1}'), b'{"reasoning":"so"}'))
    b'{"mine":1,"answer":{"reasoning":"so"}}'
    """
    if not metadata_json:
        return echo
    echoed = pack(echo)
    if b'"answer"' in echoed:  # it replaces a member of that name in the task's own metadata
        echoed = dumps({name: value for name, value in loads(echoed).items() if name != "answer"})
    comma = b"," if len(echoed) > 2 else b""
    return orjson.Fragment(echoed[:-1] + comma + b'"answer":' + metadata_json + b"}")


def _is_large(echo: EchoedMetadata) -> bool:
    return len(pack(echo)) > LARGE_BYTES
