"""The token that agents send to a worker's gRPC services: `authorization: Bearer ...`, compared in constant time.

In: a call's metadata, and a reference to the secret. Out: None, or the status to end the call with, which reveals
neither the token nor the service behind it. A source of too many wrong tokens must wait for the rest of the minute.
"""

from __future__ import annotations

import time
from hmac import compare_digest
from typing import Any

import grpc
import structlog

from agents_io.errors import AgentError
from agents_io.rules.wrong_tokens import WrongTokens
from agents_io.secret_refs import Secret

log = structlog.get_logger(__name__)


MOST_WRONG = 100
"""Wrong tokens a minute from one source. More than the pages allow: all agents behind one proxy are one source, and
they reconnect.
"""


def bearer_of(context: Any) -> str:
    """The token the caller sent; empty without one."""
    for name, value in context.invocation_metadata() or ():
        if name.lower() == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ").strip()
    return ""


def caller_of(context: Any) -> str:
    """The caller's address from gRPC's peer text: `ipv4:10.0.0.7:51000`, `ipv6:%5B::1%5D:51000`, `unix:`."""
    kind, _, rest = str(context.peer()).partition(":")
    host = rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else kind
    return host.replace("%5B", "").replace("%5D", "").strip("[]")


def objection(
    context: Any,
    wanted: Secret | None,
    wrong: WrongTokens,
    complaint: str = "authorization: the token is missing or wrong",
) -> tuple[grpc.StatusCode, str] | None:
    """Why the caller is refused: a missing or wrong token, too many wrong ones, or a secret that cannot be read. None:
    accepted.

    Without a `wanted` secret every caller is accepted. `wrong`: counts the wrong tokens of each source; a missing one
    is not counted.
    """
    if wanted is None:
        return None
    try:
        token = wanted.token()
    except AgentError as error:
        log.error("agents that dial in are refused: gateway.agent_token cannot be read", reason=error.message)
        return grpc.StatusCode.UNAVAILABLE, "this worker cannot check tokens now"
    shown, caller, now = bearer_of(context), caller_of(context), time.monotonic()
    if shown and (wait_s := wrong.wait_s(caller, now)):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, f"authorization: too many wrong tokens; try again in {wait_s:.0f} s"
    if compare_digest(shown.encode(), token.encode()):
        return None
    if shown:
        wrong.add(caller, now)
    return grpc.StatusCode.UNAUTHENTICATED, complaint
