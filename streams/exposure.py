"""Does a worker listen where other machines reach it, without asking who they are?

In: settings. Out: one line for each address that is open to everybody; with `--insecure` that is allowed. It binds nothing.
"""

from __future__ import annotations

from streams.rules.addresses import is_loopback
from streams.settings import Settings
from streams.tokens import check_tokens

REMEDY = "or allow everybody with --insecure (setting insecure)"


class Exposed(Exception):
    """A worker would serve everybody who reaches an address; one line that names the settings."""


def open_addresses(settings: Settings) -> list[str]:
    """What is open beyond this machine, each with its remedy; empty if nothing is."""
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
    """Raises `Exposed` for addresses that everybody could use, unless that was allowed, and `TokenUnusable`."""
    found = [] if settings.insecure else open_addresses(settings)
    if found:
        raise Exposed("; ".join(found))
    check_tokens(settings)
