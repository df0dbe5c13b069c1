"""Asks all other workers at once what a task waits for that one of them holds.

In: a task id, and the workers' addresses. Out: the first answer; None if none of them holds it. A worker that does not
answer in time delays no request: its part is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog
from yarl import URL

from agents_io.errors import Unsupported
from agents_io.secret_refs import Secret
from schemas.exact_json import loads
from streams.tokens import authorization

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 2.0
MAX_ASKED = 100


class OtherWorkers:
    """The other workers. `peers`: returns their addresses as known now; `token`: sent to them."""

    def __init__(self, peers: Callable[[], Collection[str]], token: Secret | None = None) -> None:
        self._peers = peers
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def waiting(self, task_id: str) -> dict[str, Any] | None:
        """As `GET /api/v1/tasks/{id}/waiting` of the worker that holds the task."""
        # Encoded here: a %2F in an id must stay encoded.
        path = f"/api/v1/tasks/{quote(task_id, safe='')}/waiting"
        asked = sorted(self._peers())[:MAX_ASKED]
        for found in await asyncio.gather(*(self._ask(f"{peer}{path}") for peer in asked)):
            if found is not None:
                return found
        return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, url: str) -> dict[str, Any] | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S))
        try:
            headers = authorization(self._token)
            async with self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as answer:
                body = loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValueError, Unsupported) as error:
            log.info("another worker does not report what a task waits for", url=url, error=repr(error))
            return None
        return body if answer.status == 200 and isinstance(body, dict) else None
