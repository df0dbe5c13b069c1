"""The meaning of a status, of HTTP or in a header of a Kafka record. Pure.

500-599         http_5xx (502, 503, 504: as long as asked)  408         timeout         other 4xx    http_4xx
425, 429, 529   rate_limited (as long as it asks to wait)   3xx         bad_response
409, 423        http_4xx; tried again when an earlier attempt of the same Idempotency-Key may still be under way
"""

from __future__ import annotations

from agents_io.errors import (
    AgentError,
    BadResponse,
    CallTimeout,
    ClientError,
    RateLimited,
    Refused,
    ServerError,
)

OVERLOADED = 529
_MAY_SAY_WHEN = (502, 503, 504)
_REPEATED = (409, 423)
_FILTERED = (b'"content_filter"', b'"content_policy_violation"', b'"ResponsibleAIPolicyViolation"')
_LOOKED_AT = 4096


class StillRunning(ClientError):
    """The agent is still busy with an earlier attempt of the same task; its answer may be available later."""

    retryable = True


def error_of(
    status: int, shown: str, wait_s: float | None = None, *, attempt: int = 1, body: bytes = b""
) -> AgentError:
    """The error of a status other than 2xx. `wait_s`: the wait that the agent asked for, seconds.

    `attempt`: its number; after the first, the outcome of an earlier one may be unknown. `body`: of the response.

    >>> error_of(503, "'busy'", 2.0).retry_after_s, error_of(429, "'slow down'").status
    (2.0, 429)
    >>> error_of(409, "'exists'").retryable, error_of(409, "'exists'", attempt=2).retryable
    (False, True)
    """
    error = _meant(status, f"the agent answered {status}: {shown}", wait_s, attempt, body[:_LOOKED_AT])
    error.status = status
    return error


def _meant(status: int, text: str, wait_s: float | None, attempt: int, body: bytes) -> AgentError:
    if status in (425, 429, OVERLOADED):
        return RateLimited(text, retry_after_s=wait_s)
    if status >= 500:
        return ServerError(text, retry_after_s=wait_s if status in _MAY_SAY_WHEN else None)
    if status == 408:
        return CallTimeout(text)
    if status in _REPEATED and (attempt > 1 or _may_still_run(body, wait_s)):
        return StillRunning(text, retry_after_s=wait_s)
    if status >= 400:
        return Refused(text) if any(word in body for word in _FILTERED) else ClientError(text)
    return BadResponse(text)


def _may_still_run(body: bytes, wait_s: float | None) -> bool:
    """Whether the answer itself says so: even a first attempt may follow one of a worker that died."""
    return wait_s is not None or b"idempoten" in body.lower()
