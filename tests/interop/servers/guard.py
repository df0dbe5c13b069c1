"""What the servers share: the token they want, and what a task says."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

PORT = int(sys.argv[1])
OPTIONS = sys.argv[2:]
TOKEN = os.environ["AGENT_TOKEN"]


def guarded(app: Any) -> Any:
    """The ASGI application behind the token; agent cards are public."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and ".well-known" not in scope["path"]:
            given = dict(scope["headers"]).get(b"authorization", b"").decode()
            if given != f"Bearer {TOKEN}":
                await send(
                    {"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]}
                )
                await send({"type": "http.response.body", "body": b""})
                return
        await app(scope, receive, send)

    return guard


def serve(app: Any) -> None:
    """Until it is ended."""
    import uvicorn

    uvicorn.run(guarded(app), host="127.0.0.1", port=PORT, log_level="warning", timeout_graceful_shutdown=1)


async def act(task: str) -> None:
    """What the task says; prints what a test wants to know."""
    words = (task or "ok").split()
    print("ACT", words[0], flush=True)
    try:
        if words[0] == "slow":
            await asyncio.sleep(float(words[1]))
    except asyncio.CancelledError:
        print("CANCELLED", flush=True)
        raise
    if words[0] == "fail":
        raise RuntimeError("disk full")
