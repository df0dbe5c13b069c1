"""Which power an HTTP request to a worker needs, and which user a trusted proxy names. Pure.

In: method and route of a request, its address and headers. Out: `view`, `operate`, or None.

| route | needs |
|---|---|
| `/livez`, `/readyz` | nothing: probes carry no token. Without one the answer is only yes or no |
| `/page/{file}`, and `/` for a browser | nothing: files of the package, with which a person logs in |
| `/metrics` | `view`, or nothing with `web_auth.open_metrics` |
| any other read, including other workers' questions and unknown paths | `view` |
| any change: any method but GET, HEAD and OPTIONS | `operate` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal

from agents_io.rules.wrong_tokens import peer_address

Power = Literal["view", "operate"]

PROBES = frozenset({"/livez", "/readyz"})
SHELL = frozenset({"/page/{file}"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_USER = 256


@dataclass(frozen=True, slots=True)
class WebCaller:
    """The caller. `user`: as a trusted proxy names them; None for the holder of a token."""

    power: Power
    user: str | None = None

    def may(self, needed: Power) -> bool:
        """Whether the caller has the power; operate includes view."""
        return needed == "view" or self.power == "operate"


def power_needed(
    method: str, route: str | None, *, for_browser: bool = False, open_metrics: bool = False
) -> Power | None:
    """`route`: the matched route's path, such as `/api/v1/agents/{id}`; None: no route. Returns None if no token is needed.

    >>> power_needed("GET", "/readyz"), power_needed("GET", "/metrics"), power_needed("POST", "/readyz")
    (None, 'view', 'operate')
    """
    if method not in READING:
        return "operate"
    if route in PROBES or route in SHELL or (route == "/" and for_browser):
        return None
    if route == "/metrics" and open_metrics:
        return None
    return "view"


class TrustedProxies:
    """The proxies whose header names the user. `operators`: users who may operate; `*`: all of them."""

    def __init__(self, networks: Sequence[str], operators: Sequence[str]) -> None:
        """Raises ValueError for an invalid network."""
        self._networks = [ip_network(text) for text in networks]
        self._operators = frozenset(operators)

    def caller(self, address: str | None, values: Sequence[str]) -> WebCaller | None:
        """`values`: those of the header, in order. None: it names no user, or the request is not from a trusted proxy.

        More than one value is refused: one of them may be the client's own.

        >>> proxies = TrustedProxies(["10.0.0.7/32"], ["ops@example.com"])
        >>> proxies.caller("10.0.0.7", ["ops@example.com"]), proxies.caller("10.0.0.8", ["ops@example.com"])
        (WebCaller(power='operate', user='ops@example.com'), None)
        """
        user = values[0].strip() if len(values) == 1 else ""
        if not 0 < len(user) <= MAX_USER or not user.isprintable() or not self._trusted(address):
            return None
        operates = user in self._operators or "*" in self._operators
        return WebCaller("operate" if operates else "view", user)

    def _trusted(self, address: str | None) -> bool:
        found = peer_address(address or "")
        return found is not None and any(found in network for network in self._networks)
