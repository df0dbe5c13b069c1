"""The token that agents show to a worker's gRPC services: `authorization: Bearer ...`, compared in constant time.

In: the metadata of a call, and the secret by reference. Out: nothing, or the status that the call is to end with. It says nothing
of what is behind it, nor of the token.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

import grpc
import structlog

from agents_io.errors import AgentError
from agents_io.secret_refs import Secret

log = structlog.get_logger(__name__)


def bearer_of(context: Any) -> str:
    """What the caller shows; empty if nothing."""
    for name, value in context.invocation_metadata() or ():
        if name.lower() == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ").strip()
    return ""


def objection(context: Any, wanted: Secret | None) -> tuple[grpc.StatusCode, str] | None:
    """Why the caller may not go on: no right token, or the secret cannot be read. None is wanted: everybody may."""
    if wanted is None:
        return None
    try:
        token = wanted.token()
    except AgentError as error:
        log.error("no agent is let in: the token cannot be read", reason=error.message)
        return grpc.StatusCode.UNAVAILABLE, "this worker cannot check tokens now"
    if compare_digest(bearer_of(context).encode(), token.encode()):
        return None
    return grpc.StatusCode.UNAUTHENTICATED, "authorization: the token is missing or wrong"
