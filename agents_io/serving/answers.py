"""What an agent's function returned, as the JSON of an answer; what it raised, as an HTTP status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from agents_io.errors import AgentError
from agents_io.protocols.functions.rules.results import read_result
from schemas.exact_json import dumps
from schemas.messages import explain

MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """An answer with more than value and confidence: `reasoning`, and `extra` members for `metadata.answer` of the result."""

    value: Any
    confidence: float = 1.0
    reasoning: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Declined(Exception):
    """Raise it in an agent's function if a retry is useless. The message becomes part of the result."""


class CallFailed(Exception):
    """A call without an answer. `status`: HTTP's; `retry_after_s`: seconds after which to try again."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer ready to be sent. `body`: the whole as JSON; the parts are for protocols that send them separately."""

    body: bytes
    value: Any
    confidence: float
    reasoning: str = ""


def reply_of(returned: Any, default_confidence: float) -> Reply:
    """The reply for a function's result: a value, `(value, confidence)`, `{"value", "confidence"}` or an `Answer`.
    Raises `CallFailed`.

    >>> reply_of(("yes", 0.75), 1.0).body, reply_of("yes", 0.5).body
    (b'{"value":"yes","confidence":0.75}', b'{"value":"yes","confidence":0.5}')
    """
    answer = returned if isinstance(returned, Answer) else None
    try:
        if answer is not None:
            pair: Any = (_plain(answer.value), answer.confidence)
        elif isinstance(returned, tuple) and len(returned) == 2:
            pair = (_plain(returned[0]), returned[1])
        else:
            pair = _plain(returned)
            if not (isinstance(pair, dict) and pair.keys() == {"value", "confidence"}):
                pair = (pair, default_confidence)
        found = read_result(pair, MAX_ANSWER_BYTES)
        data = {"value": found.value, "confidence": found.confidence}
        if answer is not None:
            data = dict(_plain(dict(answer.extra))) | data
            if answer.reasoning is not None:
                data["reasoning"] = answer.reasoning
        return Reply(dumps(data), found.value, found.confidence, (answer and answer.reasoning) or "")
    except AgentError as error:
        raise CallFailed(500, str(error)) from None
    except RecursionError:
        raise CallFailed(
            500, "the function returned what is not JSON: it is nested too deep, or holds itself"
        ) from None
    except (TypeError, ValueError) as error:
        raise CallFailed(500, f"the function returned what is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    """Pydantic models and dataclasses as JSON, also within lists and objects."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return TypeAdapter(type(value)).dump_python(value, mode="json")
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def failure_of(error: BaseException) -> CallFailed:
    """The failure for an exception of the function."""
    if isinstance(error, CallFailed):
        return error
    if isinstance(error, Declined):
        return CallFailed(422, str(error) or "the agent declined")
    return CallFailed(500, f"{type(error).__name__}: {error}"[:1000])


def bad_payload(error: ValidationError) -> CallFailed:
    """The failure for a payload that does not fit the function's model, with field and reason."""
    return CallFailed(400, f"payload: {explain(error)}")
