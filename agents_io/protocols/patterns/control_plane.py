"""Patterns executed by the control plane over its REST API: `POST {url}/api/patterns/{name}/execute`.

In: a pattern's name and its input. Out: a `PatternExecution`, or one `AgentError`: 400 (no input) and other 4xx are `http_4xx`,
404 is `UnknownPattern` (also `http_4xx`), 5xx is `http_5xx`, a reply that is not as documented is `bad_response`; the rest as in
`http/exchange.py`. A pattern that ran and failed is no error here: it is an execution with status `failed`.
"""

from __future__ import annotations

from math import isfinite
from typing import Any
from urllib.parse import quote

import httpx

from agents_io.errors import BadResponse, ClientError
from agents_io.http.exchange import HttpExchange, shown_body, status_error
from agents_io.http.peer import Peer, below
from agents_io.protocols.patterns.transport import PatternExecution, UnknownPattern
from agents_io.rules.answer import excerpt, load_json
from agents_io.transport import MAX_ANSWER_BYTES
from schemas.exact_json import dumps
from schemas.messages import AgentRegistration, SecretRef


class ControlPlane:
    """A `PatternExecutor`. `auth`: a reference to its bearer token, if it needs one."""

    def __init__(
        self,
        url: str,
        auth: SecretRef | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """`transport`: replaces its connection pool. Raises `Unsupported` if the URL is invalid."""
        self._peer = Peer(AgentRegistration(id="control-plane", endpoint=url, protocol="http", auth=auth))
        self._http = HttpExchange(transport, max_answer_bytes=max_answer_bytes)

    async def execute(
        self, pattern_name: str, input: Any, *, timeout: int, execution_id: str, parent_task_id: str
    ) -> PatternExecution:
        """Execute once; the caller's timeout covers it. Raises `AgentError`."""
        options = {"timeout": timeout, "executionId": execution_id, "parentTaskId": parent_task_id}
        body = dumps({"input": input, "options": options})
        path = f"api/patterns/{quote(pattern_name, safe='')}/execute"
        response, reply = await self._http.raw(self._peer.post(below(self._peer.base, path), body))
        if response.status_code != 200:
            text = shown_body(self._peer, reply)
            if response.status_code == 404:
                raise UnknownPattern(f"the control plane has no pattern {pattern_name[:80]!r}: {text}")
            error = status_error(response, text, reply)
            raise ClientError(f"the control plane refused the input: {text}") if response.status_code == 400 else error
        return self._peer.parsed(reply, lambda: read_execution(reply, pattern_name, execution_id))

    async def close(self) -> None:
        await self._http.aclose()


def read_execution(reply: bytes, pattern_name: str, execution_id: str) -> PatternExecution:
    """The execution in a 200. Raises `BadResponse`.

    >>> read_execution(b'{"execution": {"status": "completed", "result": 3}, "duration": 5}', "sum", "t1").result
    3
    """
    data = load_json(reply)
    found = data.get("execution") if isinstance(data, dict) else None
    if not isinstance(found, dict) or found.get("status") not in ("completed", "failed"):
        raise BadResponse(f"the control plane's answer holds no execution that completed or failed: {excerpt(reply)}")
    metrics = found.get("metrics")
    error = found.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return PatternExecution(
        id=str(found.get("id") or execution_id)[:256],
        pattern_name=pattern_name,
        status=found["status"],
        result=found.get("result"),
        error=None if error is None else str(error),
        confidence=_number(metrics.get("averageConfidence")) if isinstance(metrics, dict) else None,
        execution_time=_number(data.get("duration")) or 0.0,
    )


def _number(found: Any) -> float | None:
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not isfinite(found):
        raise BadResponse("the control plane's answer holds a number that is not finite")
    return float(found)
