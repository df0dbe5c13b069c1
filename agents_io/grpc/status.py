"""From gRPC's status of a failed call to an `AgentError`, by the table in `transport`.

In: what grpc raised. Out: one `AgentError` with the agent's message, shortened, and never the secret.
"""

from __future__ import annotations

import errno
import os
import re
import time

import grpc
import grpc.aio

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    InternalError,
    RateLimited,
    ServerError,
)
from agents_io.grpc.rules.retry_info import retry_info_s
from agents_io.rules.answer import excerpt
from agents_io.rules.statuses import StillRunning
from agents_io.rules.waits import wait_of

_Code = grpc.StatusCode

TABLE: dict[grpc.StatusCode, type[AgentError]] = {
    _Code.UNAVAILABLE: ConnectionFailed,
    _Code.CANCELLED: ConnectionFailed,
    _Code.DEADLINE_EXCEEDED: CallTimeout,
    _Code.RESOURCE_EXHAUSTED: RateLimited,
    _Code.INTERNAL: ServerError,
    _Code.UNKNOWN: ServerError,
    _Code.DATA_LOSS: ServerError,
    _Code.ABORTED: ServerError,
    _Code.INVALID_ARGUMENT: ClientError,
    _Code.NOT_FOUND: ClientError,
    _Code.ALREADY_EXISTS: ClientError,
    _Code.FAILED_PRECONDITION: ClientError,
    _Code.OUT_OF_RANGE: ClientError,
    _Code.UNAUTHENTICATED: ClientError,
    _Code.PERMISSION_DENIED: ClientError,
    _Code.UNIMPLEMENTED: ClientError,
}
LINE_IN_DOUBT = frozenset({_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED})
"""After these the next call has a new connection: the agent may be back, or its host gone without notice."""
_OUT_OF_TIME = "Deadline Exceeded"
"""gRPC's own message; any other is the agent's."""
_TOO_LARGE = re.compile("larger than max|message exceeds (the )?maximum (configured message )?size", re.IGNORECASE)
"""How gRPC says that a message is too large: in C, Go and JavaScript; in Java and .NET."""
_MAY_SAY_WHEN = frozenset({_Code.UNAVAILABLE, _Code.RESOURCE_EXHAUSTED})
# No descriptors or ports left on this machine: not the agent's fault.
_OURS = tuple(
    os.strerror(number) for number in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
)


def status_error(error: grpc.aio.AioRpcError, timeout_s: float, token: str, attempt: int = 1) -> AgentError:
    """What a status that is not OK means. `attempt`: which of the task's."""
    code = error.code()
    details = error.details() or ""
    if code is _Code.DEADLINE_EXCEEDED and (not details or _OUT_OF_TIME in details):
        return CallTimeout(f"no answer within {timeout_s:.3g} s")
    shown = excerpt(connection_failure(details.replace(token, "***") if token else details).encode("utf-8", "replace"))
    if code is _Code.UNAVAILABLE and any(text in details for text in _OURS):
        return InternalError(f"this worker could not connect: {shown}")
    special = _own_finding(code, details, shown)
    if special is not None:
        return special
    kind = TABLE.get(code, ServerError)
    if code is _Code.ALREADY_EXISTS and attempt > 1:  # like HTTP's 409: an earlier attempt may still be running
        kind = StillRunning
    text = f"the connection failed: {shown}" if kind is ConnectionFailed else f"the agent answered {code.name}: {shown}"
    return kind(text, retry_after_s=_retry_after(error) if code in _MAY_SAY_WHEN else None)


def connection_failure(details: str) -> str:
    """Why gRPC could not connect, without the words before the reason.

    >>> connection_failure("failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:7: Connection refused")
    'ipv4:10.0.0.1:7: Connection refused'
    """
    text = details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    _, of_tls, why = text.rpartition("OPENSSL_internal:")
    return f"TLS: {why}" if of_tls else text


def _own_finding(code: grpc.StatusCode, details: str, shown: str) -> AgentError | None:
    """A fault that this side found in the answer, or the agent's side in the request."""
    if code is _Code.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        if "CLIENT:" in details:
            return AnswerTooLarge(f"the answer is larger than accepted: {shown}")
        return ClientError(f"the task is larger than the agent accepts: {shown}")
    if "metadata size exceeds" in details:
        return BadResponse(f"the answer's metadata are larger than accepted: {shown}")
    if "ompression algorithm" in details or "ompressed" in details:
        return BadResponse(f"the answer is compressed although identity was requested: {shown}")
    return None


def _retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds that the agent asks to wait, in its trailing metadata or its message; None if it states none."""
    trailing = error.trailing_metadata() or ()
    texts = {name: value for name, value in trailing if isinstance(value, str)}
    pushback = texts.get("grpc-retry-pushback-ms", "")
    if pushback.isascii() and pushback.isdigit() and len(pushback) < 10:
        return int(pushback) / 1000
    details = next((value for name, value in trailing if name == "grpc-status-details-bin"), b"")
    stated_s = retry_info_s(details) if isinstance(details, bytes) else None
    return wait_of(texts, (error.details() or "").encode(), time.time()) if stated_s is None else stated_s
