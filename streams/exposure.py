"""Checks whether other machines can reach a worker without authentication.

In: settings. Out: one line for each open address; `--insecure` allows them. It binds nothing.
"""

from __future__ import annotations

from streams.rules.addresses import is_loopback
from streams.settings import Settings
from streams.tokens import check_tokens

REMEDY = "or allow everyone with --insecure (setting insecure)"


class Exposed(Exception):
    """A worker would serve everyone who reaches an address; one line that names the settings."""


def open_addresses(settings: Settings) -> list[str]:
    """Addresses that other machines reach without authentication, each with its remedy."""
    found = []
    if not is_loopback(settings.web_host) and not settings.web_auth.is_set:
        found.append(
            f"web_host {settings.web_host}: other machines reach the pages, and no token is set: set web_auth.view_tokens "
            f"(or web_auth.proxy_header with web_auth.proxy_networks), {REMEDY}"
        )
    guarded = settings.gateway.agent_token is not None or settings.grpc_tls.client_ca_file is not None
    if "dispatch" in settings.roles and not is_loopback(settings.grpc_host) and not guarded:
        found.append(
            f"grpc_host {settings.grpc_host}: other machines reach the registry and the gateway, and no token is set: set "
            f"gateway.agent_token (or grpc_tls.client_ca_file), {REMEDY}"
        )
    return found


def refuse_exposure(settings: Settings) -> None:
    """Raises `Exposed` for open addresses, unless they are allowed, and `TokenUnusable`."""
    found = [] if settings.insecure else open_addresses(settings)
    if found:
        raise Exposed("; ".join(found))
    check_tokens(settings)
