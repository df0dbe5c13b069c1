"""Confidence from a judge: the request to the judge, its answer, and how an answer travels to it. Pure.

In: a task's payload and an answer without a confidence; then the judge's answer. Out: the judge's payload, the header
of the record that carries both to the partition that owns the judge, and the confidence. It decides nothing about
failures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agents_io.errors import BadResponse
from agents_io.rules.answer import checked_confidence, excerpt
from agents_io.transport import Answer
from schemas.codec import Rejected, dumps, pack
from schemas.exact_json import loads
from streams.rules.task_records import Success

QUESTION = (
    "Judge an answer. `data.question` is what was asked, `data.answer` is the answer that was given. How likely is it that the "
    "answer is right? Give that as a number from 0 to 1."
)


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer on its way to its judge.

    `agent_id`: the agent that gave it; `judge`: the id of the agent that rates it; `started_ms`: the first call, epoch
    ms; `call_ms`: the last call; `otherwise`: the confidence if the judge gives none, None: the task then fails.
    """

    agent_id: str
    judge: str
    answer: Success
    started_ms: int
    call_ms: float
    retries: int
    otherwise: float | None = None

    def header(self) -> bytes:
        """The value of the header."""
        given: dict[str, Any] = {
            "agentId": self.agent_id,
            "judge": self.judge,
            "value": orjson.Fragment(self.answer.value_json),
            "startedAt": self.started_ms,
            "callTime": self.call_ms,
            "retries": self.retries,
        }
        if self.answer.metadata_json:
            given["metadata"] = orjson.Fragment(self.answer.metadata_json)
        if self.otherwise is not None:
            given["otherwise"] = self.otherwise
        return pack(given)


def read_judged(header: bytes) -> Judged:
    """The inverse of `Judged.header`. Raises `Rejected`."""
    try:
        given = loads(header)
        metadata = given.get("metadata")
        return Judged(
            str(given["agentId"]),
            str(given["judge"]),
            Success(dumps(given["value"]), 0.0, dumps(metadata) if metadata else b""),
            int(given["startedAt"]),
            float(given["callTime"]),
            int(given["retries"]),
            given.get("otherwise"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected("dispatch", f"the answer for a judge cannot be read: {type(error).__name__}") from None


def judge_body(payload: Any, answer: Success) -> bytes:
    """The payload that the judge is sent.

    >>> judge_body({"task": "2+2"}, Success(b"4", 0.0))[-46:]
    b'"data":{"question":{"task":"2+2"},"answer":4}}'
    """
    return dumps({"task": QUESTION, "data": {"question": payload, "answer": loads(answer.value_json)}})


def rated(verdict: Answer) -> float:
    """The confidence from a judge's answer. Two cases: 1 its value is a number. 2 it is true or false: the judge's own
    confidence in that counts.

    Raises `BadResponse`.

    >>> rated(Answer(0.7, 1.0)), rated(Answer("85%", 1.0)), rated(Answer(False, 0.9))
    (0.7, 0.85, 0.1)
    """
    if isinstance(verdict.value, bool):
        return verdict.confidence if verdict.value else round(1.0 - verdict.confidence, 9)
    try:
        return checked_confidence(verdict.value, lenient=True)
    except BadResponse:
        shown = excerpt(repr(verdict.value)[:200].encode("utf-8", "replace"))
        raise BadResponse(f"a judge's value must be a number in [0, 1], true or false, not {shown}") from None


def with_verdict(judged: Judged, confidence: float, verdict: Answer | None) -> Success:
    """The answer with its confidence; the rest of the judge's answer becomes the member `judge` of its metadata."""
    metadata = loads(judged.answer.metadata_json) if judged.answer.metadata_json else {}
    metadata["judge"] = {"agentId": judged.judge} | ({} if verdict is None else verdict.metadata)
    return Success(judged.answer.value_json, confidence, dumps(metadata))
