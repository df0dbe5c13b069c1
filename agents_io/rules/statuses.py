"""What a status means, whether HTTP carried it or a header of a Kafka record. Pure.

500-599    http_5xx (503: as long as it asks to wait)       408    timeout         other 4xx    http_4xx
425, 429   rate_limited (as long as it asks to wait)        3xx    bad_response
"""

from __future__ import annotations

from agents_io.errors import AgentError, BadResponse, CallTimeout, ClientError, RateLimited, ServerError


def error_of(status: int, said: str, wait_s: float | None = None) -> AgentError:
    """The error that a status which is no 2xx stands for. `wait_s`: what the agent asked for, seconds.

    >>> error_of(503, "'busy'", 2.0).retry_after_s, error_of(500, "'broken'", 2.0).retry_after_s
    (2.0, None)
    >>> error_of(429, "'slow down'").status
    429
    """
    error = _meant(status, f"the agent answered {status}: {said}", wait_s)
    error.status = status
    return error


def _meant(status: int, text: str, wait_s: float | None) -> AgentError:
    if status >= 500:
        return ServerError(text, retry_after_s=wait_s if status == 503 else None)
    if status in (425, 429):
        return RateLimited(text, retry_after_s=wait_s)
    if status == 408:
        return CallTimeout(text)
    if status >= 400:
        return ClientError(text)
    return BadResponse(f"the agent answered {status}; redirects are not followed")
