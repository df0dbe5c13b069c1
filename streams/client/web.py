"""Requests to a worker over HTTP, for statistics. The token comes from the caller or from the setting
`web_auth.token`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

import httpx

from agents_io.errors import Unsupported
from agents_io.secret_refs import Secret
from streams.client.errors import ClientError, NotFound
from streams.client.times import Duration, duration_ms
from streams.tokens import authorization

TIMEOUT_S = 20.0
TRIES = 5
RETRY_PAUSE_S = 1.0


class WorkerApi:
    """A worker's query API at `web`, with `token` as bearer token; None: the token that `configured` references, if
    any.
    """

    def __init__(self, web: str | None, token: str | None, configured: Secret | None = None) -> None:
        self._web = web
        self._token = token
        self._configured = configured
        self._client: httpx.AsyncClient | None = None

    async def stats(self, agent: str, last: Duration, pattern: str | None) -> dict[str, Any]:
        """`GET /agents/{id}/stats`. Raises `NotFound`, `ClientError`."""
        begin = round(time.time() * 1000) - duration_ms(last, "last")
        query = {"from": str(begin)} | ({} if pattern is None else {"patternName": pattern})
        found: dict[str, Any] = await self._get(f"/api/v1/agents/{quote(agent, safe='')}/stats", query)
        return found

    async def _get(self, path: str, query: dict[str, str]) -> Any:
        if self._web is None:
            raise ClientError('only a worker can answer this: give its address, Client(web="http://127.0.0.1:8080")')
        if self._client is None:
            self._client = httpx.AsyncClient(base_url=self._web, timeout=TIMEOUT_S)
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(RETRY_PAUSE_S)
            try:
                answer = await self._client.get(path, params=query, headers=self._headers())
            except httpx.HTTPError as error:
                raise ClientError(f"the worker at {self._web} does not answer: {str(error) or repr(error)}") from None
            if answer.status_code == 200:
                return answer.json()
            reason = _reason(answer)
            if answer.status_code != 503:  # while partitions move, statistics are not certain for a moment
                break
        kind = NotFound if answer.status_code == 404 else ClientError
        if answer.status_code == 401:
            reason += "; give it with Client(token=...) or the setting web_auth.token"
        raise kind(f"the worker at {self._web} answered {answer.status_code}: {reason}")

    def _headers(self) -> dict[str, str]:
        if self._token is not None:
            return {"Authorization": f"Bearer {self._token}"}
        try:
            return authorization(self._configured)
        except Unsupported as error:
            raise ClientError(error.message) from None

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
