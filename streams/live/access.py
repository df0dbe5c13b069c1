"""Authenticates callers before a page answers: by bearer token, or by the user's name from a trusted proxy.

In: requests, and references to the tokens. Out: requests with `request[CALLER]`, or 401, 403, 429. Without a token and
a proxy, every caller is accepted (`streams/exposure.py` keeps such a worker on loopback). Tokens are compared in
constant time, read from the Authorization header alone, and never logged. A source of ten wrong ones in a minute must
wait for the rest of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from hmac import compare_digest

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from agents_io.errors import AgentError
from agents_io.rules.wrong_tokens import WrongTokens
from agents_io.secret_refs import Secret, secret_of
from streams.answers import error_answer, json_answer
from streams.live.page import wants_page
from streams.rules.web_access import Power, TrustedProxies, WebCaller, power_needed
from streams.settings_parts import WebAuthSettings

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CALLER: web.RequestKey[WebCaller] = web.RequestKey("caller", WebCaller)
EVERYBODY = WebCaller("operate")
"""The caller if authentication is off."""
MISSING = "this worker asks for a token: send Authorization: Bearer TOKEN"


class WebAccess:
    """The access control of one worker. `clock`: seconds, for the limit on wrong tokens."""

    def __init__(self, given: WebAuthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._given = given
        self._clock = clock
        self._tokens = [*_secrets("view", given.view_tokens), *_secrets("operate", given.operate_tokens)]
        self._proxies = TrustedProxies(given.proxy_networks, given.proxy_operators)
        self._wrong = WrongTokens()

    def middleware(self) -> Middleware:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            needed = power_needed(
                request.method,
                None if resource is None else resource.canonical,
                for_browser=wants_page(request),
                open_metrics=self._given.open_metrics,
            )
            found = self._identify(request)
            if isinstance(found, WebCaller):
                if needed is not None and not found.may(needed):
                    return error_answer(403, f"this needs the power {needed}; the token or the user has {found.power}")
                request[CALLER] = found
            elif needed is not None:
                return found
            return await handler(request)

        return check

    def routes(self) -> list[web.RouteDef]:
        """The routes for the web application."""
        return [web.get("/api/v1/access", self._access)]

    async def _access(self, request: web.Request) -> web.Response:
        caller = request[CALLER]
        return json_answer({"required": self._given.is_set, "power": caller.power, "user": caller.user})

    def _identify(self, request: web.Request) -> WebCaller | web.Response:
        """The caller, or the refusal. The proxy is checked first: it may pass on a token of the user that is not one of
        ours.
        """
        if not self._given.is_set:
            return EVERYBODY
        if self._given.proxy_header is not None:
            values = request.headers.getall(self._given.proxy_header, [])
            if (caller := self._proxies.caller(request.remote, values)) is not None:
                return caller
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return _unauthorized(MISSING)
        return self._holder(token.strip(), request.remote or "")

    def _holder(self, token: str, address: str) -> WebCaller | web.Response:
        now = self._clock()
        if wait_s := self._wrong.wait_s(address, now):
            refusal = error_answer(429, "too many wrong tokens from this address")
            refusal.headers["Retry-After"] = str(max(1, round(wait_s)))
            return refusal
        power: Power | None = None
        # All are compared: the time must not reveal the position in the list. Tokens that may operate come last.
        for granted, secret in self._tokens:
            if _equal(token, secret):
                power = granted
        if power is None:
            self._wrong.add(address, now)
            return _unauthorized("the token is wrong")
        return WebCaller(power)


def _secrets(power: Power, references: tuple[str, ...]) -> list[tuple[Power, Secret]]:
    found = ((power, secret_of(reference, f"web_auth.{power}_tokens")) for reference in references)
    return [(granted, secret) for granted, secret in found if secret is not None]


def _equal(token: str, secret: Secret) -> bool:
    """A token that cannot be read now grants no access."""
    try:
        return compare_digest(token.encode("utf-8", "surrogateescape"), secret.token().encode())
    except AgentError as error:
        log.error("a token cannot be read; requests with it are refused", reason=error.message)
        return False


def _unauthorized(why: str) -> web.Response:
    refusal = error_answer(401, why)
    refusal.headers["WWW-Authenticate"] = 'Bearer realm="parallax"'
    return refusal
