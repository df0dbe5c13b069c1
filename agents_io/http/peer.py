"""An agent as a peer over HTTP: its URLs, and the parts of every request to it.

In: a registration. Out: requests for `exchange.py` to make. It opens no connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpx
import yarl

from agents_io.errors import AgentError, Unsupported
from agents_io.http.pooled_transport import FRESH_KEY, REPEATABLE_KEY, SSL_KEY, URL_KEY, RequestBody
from agents_io.http.rules.cookies import CookieJar
from agents_io.http.rules.http1 import header_line, request_line
from agents_io.rules.answer import excerpt, reading_of
from agents_io.secret_refs import Secret
from agents_io.tls import CONTEXTS, tls_of
from agents_io.transport import Call, header_text
from schemas.messages import AgentRegistration

Headers = Iterable[tuple[bytes, bytes]]
T = TypeVar("T")

_KEY = b"Idempotency-Key"
_BUDGET = b"X-Request-Timeout-Ms"
_STATIC_HEADERS = (
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"parallax-streams"),
)


class RequestTarget:
    """One URL in the forms that requests need. Raises ValueError."""

    __slots__ = ("extensions", "has_credentials", "httpx", "post_line", "url")

    def __init__(self, url: yarl.URL) -> None:
        if not url.host:
            raise ValueError("no host")
        self.url = url
        self.httpx = httpx.URL(str(url))
        self.has_credentials = url.raw_user is not None or url.raw_password is not None
        self.post_line = request_line(b"POST", url.raw_path_qs.encode("ascii"))
        self.extensions: dict[str, Any] = {URL_KEY: url}


def web_url(agent: AgentRegistration) -> yarl.URL:
    """The agent's endpoint as a URL. `openai://`, `a2a://` and `mcp://` stand for https, so no token is sent in the
    clear by accident.

    Raises `Unsupported`.

    >>> str(web_url(AgentRegistration(id="m", endpoint="openai://host/v1")))
    'https://host/v1'
    """
    scheme, separator, rest = agent.endpoint.partition("://")
    text = f"https://{rest}" if separator and scheme == agent.transport != "http" else agent.endpoint
    try:
        url = yarl.URL(text)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("write http://host or https://host")
        RequestTarget(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise Unsupported(f"endpoint: is not a URL: {excerpt(str(error).encode())}") from None
    return url


def below(base: yarl.URL, leaf: str) -> RequestTarget:
    """A path under the agent's endpoint; its query is kept."""
    path = base.raw_path.rstrip("/") + "/" + leaf if leaf else base.raw_path
    return RequestTarget(base.with_path(path, encoded=True, keep_query=True))


class Peer:
    """One agent as a peer over HTTP: the parts that stay the same between calls. Raises `Unsupported`."""

    __slots__ = (
        "_fixed_lines",
        "agent",
        "base",
        "cookies",
        "headers",
        "reading",
        "secret",
        "unauthorized_at",
        "unauthorized_status",
    )

    keeps_cookies = False
    """Whether the protocol has sessions that a load balancer may bind to one server by a cookie."""

    def __init__(self, agent: AgentRegistration) -> None:
        self.agent = agent
        self.base = web_url(agent)
        self.headers = [(b"Host", RequestTarget(self.base).httpx.netloc), *_STATIC_HEADERS]
        self._fixed_lines = b"".join(header_line(*pair) for pair in self.headers)
        self.secret = Secret(agent.auth) if agent.auth is not None else None
        self.reading = reading_of(agent.metadata, agent.confidence)
        self.cookies = CookieJar() if self.keeps_cookies else None
        self.unauthorized_status: int | None = None
        """401 or 403, if the newest call ended with it, at `unauthorized_at` (monotonic seconds)."""
        self.unauthorized_at = 0.0

    def authorised(self) -> list[tuple[bytes, bytes]]:
        """A fresh list of the headers every request carries."""
        headers = self.headers.copy()
        if self.secret is not None:
            headers.append(self.secret.header())
        if self.cookies:
            headers.append((b"Cookie", self.cookies.header()))
        return headers

    def get(self, target: RequestTarget, more: Headers = ()) -> httpx.Request:
        headers = [*self.authorised(), *more]
        return httpx.Request("GET", target.httpx, headers=headers, extensions=self._extensions(target))

    def post(self, target: RequestTarget, body: bytes, more: Headers = (), call: Call | None = None) -> httpx.Request:
        """A POST request. One that belongs to a call carries its key, its timeout and its headers. Raises
        `Unsupported`.

        A request without a call may be sent twice: it opens a session, polls or cancels a task, or names what it
        begins.
        """
        headers = self.authorised()
        if call is not None:
            headers.append((_KEY, header_text(call.idempotency_key).encode("ascii")))
            headers.append((_BUDGET, b"%d" % max(1, int(call.timeout_s * 1000))))
            try:
                for name, value in call.headers:
                    headers.append((name.encode("ascii"), value.encode("ascii")))
            except UnicodeEncodeError:
                raise Unsupported("a header of the call is not ASCII") from None
        headers.extend(more)
        headers.append((b"Content-Length", b"%d" % len(body)))
        extensions = self._extensions(target)
        if call is None:
            extensions = {**extensions, REPEATABLE_KEY: True}
        elif call.fresh:
            extensions = {**extensions, FRESH_KEY: True}
        # A stream of our own spares httpx's second pass over the headers.
        return httpx.Request("POST", target.httpx, headers=headers, stream=RequestBody(body), extensions=extensions)

    def post_head(self, target: RequestTarget, call: Call) -> bytes:
        """The bytes that `post` for this call would begin with. Raises `Unsupported`, ValueError."""
        lines = [target.post_line, self._fixed_lines]
        if self.secret is not None:
            lines.append(header_line(*self.secret.header()))
        if self.cookies:
            lines.append(header_line(b"Cookie", self.cookies.header()))
        key = header_text(call.idempotency_key).encode("ascii")
        lines.append(b"%b: %b\r\n%b: %d\r\n" % (_KEY, key, _BUDGET, max(1, int(call.timeout_s * 1000))))
        try:
            for name, value in call.headers:
                lines.append(header_line(name.encode("ascii"), value.encode("ascii")))
        except UnicodeEncodeError:
            raise Unsupported("a header of the call is not ASCII") from None
        lines.append(b"Content-Length: %d\r\n\r\n" % len(call.body))
        return b"".join(lines)

    def context(self) -> ssl.SSLContext | None:
        """The TLS files that the registration names, None if it names none. Raises `Unsupported`."""
        files = tls_of(self.agent.metadata)
        return None if files is None else CONTEXTS.get(files)

    def _extensions(self, target: RequestTarget) -> dict[str, Any]:
        context = self.context()
        return target.extensions if context is None else {**target.extensions, SSL_KEY: context}

    def hidden(self, body: bytes) -> bytes:
        """The text without our secret: an agent may echo what it was sent."""
        token = b"" if self.secret is None else self.secret.token().encode("ascii")
        return body.replace(token, b"***") if token and token in body else body

    def parsed(self, body: bytes, parse: Callable[[], T]) -> T:
        """The result of `parse` for the body. Its error never repeats our secret."""
        try:
            return parse()
        except AgentError as error:
            message = error.message.encode()
            if self.hidden(body) is not body or self.hidden(message) is not message:
                kind = type(error)
                raise kind("invalid response (body withheld: it echoes the request's secret)") from None
            raise
