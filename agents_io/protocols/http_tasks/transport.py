"""Http tasks: one request to a URL that a task names, if the allow-list permits it, one attempt each.

In: the built-in agent's registration and a `Call` whose body is an order (`rules/orders.py`). Out: the reply as an
`Answer`, or one `AgentError` by the table of `http/exchange.py`; `forbidden_target` for a URL, host or address that is
not allowed. It sends no secret of the pipeline, follows no redirect and undoes no compression. Its errors show nothing
of the task's own headers and query.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import httpx
import yarl

from agents_io.errors import AgentError, ForbiddenTarget, Unsupported
from agents_io.http.connecting import Connector
from agents_io.http.exchange import HttpExchange, header, status_error, within
from agents_io.http.pooled_transport import URL_KEY, PooledTransport, RequestBody
from agents_io.lookup import Lookup, system_lookup
from agents_io.protocols.http_tasks.rules.orders import Order, read_order, read_reply
from agents_io.rules.answer import body_excerpt
from agents_io.rules.targets import AllowList, parse_target
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call, header_text
from schemas.messages import AgentRegistration

_MIN_HIDDEN = 4
"""Shorter values are no secrets, and hiding them would garble every message."""


class HttpTaskTransport:
    """Carries out http tasks. `allowed`: hosts and networks; an empty one refuses everything."""

    def __init__(
        self,
        allowed: AllowList,
        *,
        max_connections: int = 1000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        lookup: Lookup = system_lookup,
        tls: Callable[[], ssl.SSLContext | None] | None = None,
    ) -> None:
        """`max_connections`: at least the calls in flight. `lookup`: replaces the system's, for tests. `tls`: returns
        each request's context, which should hold no certificate of ours: tasks name the hosts.
        """
        self._allowed = allowed
        self._http = HttpExchange(
            PooledTransport(max_connections=max_connections, connector=Connector(lookup, allowed.check_text), tls=tls),
            max_answer_bytes=max_answer_bytes,
            inflates=False,
        )

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it closes the connection."""
        return await within(call.timeout_s, lambda: self._attempt(call))

    async def _attempt(self, call: Call) -> Answer:
        order = read_order(call.body)
        target = parse_target(order.url)
        self._allowed.host_key(target)
        response, body = await self._http.raw(_request(order, target.url, call))
        if not 200 <= response.status_code < 300:
            raise status_error(response, _said(order, body), body, call=call)
        try:
            return read_reply(body, header(response, b"content-type").decode("latin-1"))
        except AgentError as error:
            if _hidden(order, body) is not body:
                raise type(error)("invalid response (body withheld: it echoes headers of the request)") from None
            raise

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """Raises `Unsupported`: the servers of http tasks have no known health endpoint."""
        raise Unsupported("http tasks have no health check")

    async def close(self) -> None:
        await self._http.aclose()


def _request(order: Order, url: yarl.URL, call: Call) -> httpx.Request:
    if order.query:
        url = url.extend_query(order.query)
    names = {name.lower() for name, _ in order.headers}
    headers = [(name.encode(), value.encode()) for name, value in order.headers]
    headers += [
        (name.encode(), value)
        for name, value in (("accept", b"application/json, text/*;q=0.5"), ("user-agent", b"parallax-streams"))
        if name not in names
    ]
    if order.body is not None and "content-type" not in names:
        headers.append((b"content-type", b"application/json"))
    headers += [
        (b"accept-encoding", b"identity"),
        (b"idempotency-key", header_text(call.idempotency_key).encode("ascii")),
        (b"x-request-timeout-ms", b"%d" % max(1, int(call.timeout_s * 1000))),
    ]
    headers += [(n.encode("ascii"), v.encode("ascii", "replace")) for n, v in call.headers if n not in names]
    body = order.body or b""
    if order.body is not None:
        headers.append((b"content-length", b"%d" % len(body)))
    # httpx gets the origin alone: what is connected to, and what the Host header says, is the checked `yarl.URL`.
    try:
        origin = httpx.URL(str(url.origin()))
    except (ValueError, httpx.InvalidURL):
        raise ForbiddenTarget("target: is not a URL that can be read") from None
    headers.append((b"host", url.host_port_subcomponent.encode("ascii") if url.host_port_subcomponent else b""))
    return httpx.Request(order.method, origin, headers=headers, stream=RequestBody(body), extensions={URL_KEY: url})


def _said(order: Order, body: bytes) -> str:
    return body_excerpt(_hidden(order, body))


def _hidden(order: Order, body: bytes) -> bytes:
    """The body without the values of the task's headers and query: a server may echo them."""
    held = [value for _, value in order.headers]
    held += [value.rpartition(" ")[2] for value in held]
    held += [*order.query.values(), *yarl.URL(order.url).query.values()]
    for part in sorted({part for part in held if len(part) >= _MIN_HIDDEN}, key=len, reverse=True):
        if part.encode() in body:
            body = body.replace(part.encode(), b"***")
    return body
