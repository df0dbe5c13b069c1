"""Which callers a worker on loopback accepts: programs of this machine, never a web page from elsewhere.

In: requests. Out: the same, or a 403. A foreign page can have its own name resolve to 127.0.0.1 and so read what is
served there (DNS rebinding); its requests still carry that name as `Host`, or its `Origin`. If the worker listens
beyond loopback (for probes of an orchestrator, or other workers), this guard refuses nothing: `access.py` then requires
a token, which a foreign page does not have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from streams.answers import error_answer
from streams.rules.addresses import is_loopback

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _host(authority: str) -> str:
    """The host of `host:port`, empty if it cannot be read."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def loopback_only(bound_to: str) -> Middleware:
    """The middleware of a server that listens on `bound_to`."""
    bound_here = is_loopback(bound_to)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if bound_here:
            host, origin = request.headers.get("Host"), request.headers.get("Origin")
            # A request without Host is not from a browser (HTTP/1.0).
            if host is not None and not is_loopback(_host(host)):
                return error_answer(
                    403, "Host must be localhost, 127.0.0.1 or [::1]: this worker listens on loopback only"
                )
            if origin is not None and not is_loopback(_origin_host(origin)):
                return error_answer(403, "requests from pages of other sites are refused")
        return await handler(request)

    return check
