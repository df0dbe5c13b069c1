"""What a dialled-in agent's answer means: an `Answer` or one `AgentError`. Pure.

In: the fields of a TaskResult or a TaskError. Out: as below. It trusts none of them: value_json is held to the same rules as
an HTTP body, and a confidence that is no number in [0, 1] is a bad response.

error_code (case, `-`, `_` and blanks do not matter)                                  error          counts, retried
  ANALYSIS_FAILED, INTERNAL, UNKNOWN, none, whatever is not below, 500-599            http_5xx       yes, yes
  TIMEOUT, DEADLINE_EXCEEDED, 408                                                     timeout        yes, yes
  RATE_LIMITED, RESOURCE_EXHAUSTED, OVERLOADED, BUSY, DRAINING, 425, 429              rate_limited   no, yes
    waits as long as the message asks to: "try again in 2s"
  INVALID_ARGUMENT, BAD_REQUEST, VALIDATION_ERROR, NOT_FOUND, UNSUPPORTED,
    UNIMPLEMENTED, UNAUTHENTICATED, UNAUTHORIZED, PERMISSION_DENIED, FORBIDDEN,
    FAILED_PRECONDITION, OUT_OF_RANGE, ALREADY_EXISTS, other 400-499                  http_4xx       no, no
    ALREADY_EXISTS, CONFLICT, LOCKED, 409, 423 after the first attempt                http_4xx       no, yes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    CallTimeout,
    ClientError,
    RateLimited,
    ServerError,
)
from agents_io.rules.answer import answer_beside, excerpt
from agents_io.rules.statuses import StillRunning
from agents_io.rules.waits import wait_of
from agents_io.transport import Answer

_TIMEOUT = frozenset({"TIMEOUT", "DEADLINEEXCEEDED", "408"})
_LIMITED = frozenset(
    {"RATELIMITED", "RATELIMIT", "RESOURCEEXHAUSTED", "TOOMANYREQUESTS", "OVERLOADED", "BUSY", "DRAINING", "425", "429"}
)
_REPEATED = frozenset({"ALREADYEXISTS", "CONFLICT", "LOCKED", "409", "423"})
_CALLER = frozenset(
    {
        "INVALIDARGUMENT",
        "BADREQUEST",
        "VALIDATIONERROR",
        "NOTFOUND",
        "UNSUPPORTED",
        "UNIMPLEMENTED",
        "UNAUTHENTICATED",
        "UNAUTHORIZED",
        "PERMISSIONDENIED",
        "FORBIDDEN",
        "FAILEDPRECONDITION",
        "OUTOFRANGE",
        "ALREADYEXISTS",
    }
)


def read_result(
    value_json: str, confidence: float, reasoning: str, metadata: Mapping[str, str], max_bytes: int
) -> Answer:
    """A TaskResult. `max_bytes` bounds all of it. Raises `BadResponse`, `AnswerTooLarge`.

    >>> read_result('{"a": 1}', 0.5, "because", {"model": "m"}, 1000)
    Answer(value={'a': 1}, confidence=0.5, metadata={'model': 'm', 'reasoning': 'because'})
    """
    raw = value_json.encode()
    size = len(raw) + len(reasoning.encode()) + sum(len(key) + len(value) for key, value in metadata.items())
    if size > max_bytes:
        raise AnswerTooLarge(f"the answer has {size} bytes, more than {max_bytes}")
    kept: dict[str, Any] = dict(metadata)
    if reasoning:
        kept["reasoning"] = reasoning
    return answer_beside(raw, confidence, kept)


def error_of(error_code: str, error_message: str, attempt: int = 1) -> AgentError:
    """A TaskError, by the table above. `attempt`: which of the task's.

    >>> type(error_of("ANALYSIS_FAILED", "no")).__name__, type(error_of("invalid-argument", "no")).__name__
    ('ServerError', 'ClientError')
    >>> error_of("429", "later").message
    "the agent answered 429: 'later'"
    >>> error_of("BUSY", "full; try again in 2s").retry_after_s
    2.0
    """
    code = "".join(char for char in error_code.upper() if char.isalnum())[:64]
    shown = excerpt(error_message.encode()) if error_message.strip() else "no message"
    text = f"the agent answered {code_text(error_code)}: {shown}"
    if code in _TIMEOUT:
        return CallTimeout(text)
    if code in _LIMITED:
        # A TaskError has no field for it.
        return RateLimited(text, retry_after_s=wait_of({}, error_message.encode(), 0.0))
    if code in _REPEATED and attempt > 1:
        return StillRunning(text)
    if code in _CALLER or (len(code) == 3 and code.isascii() and code.isdigit() and code[0] == "4"):
        return ClientError(text)
    return ServerError(text)


def code_text(error_code: str) -> str:
    """The code as an error message may quote it.

    >>> code_text("INTERNAL"), code_text(""), code_text("a b\\x00")
    ('INTERNAL', 'an error', "'a b?'")
    """
    if not error_code.strip():
        return "an error"
    plain = error_code.isascii() and error_code.replace("_", "").replace("-", "").isalnum() and len(error_code) <= 40
    return error_code if plain else excerpt(error_code.encode())
