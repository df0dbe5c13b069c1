"""The worker's own tokens: which there are, which one is sent to workers, and whether all are usable.

In: settings. Out: secrets by reference, the header that carries one, or `TokenUnusable`. It stores no token and logs
none.
"""

from __future__ import annotations

from collections.abc import Iterator

from agents_io.errors import Unsupported
from agents_io.secret_refs import Secret, secret_of
from streams.settings import Settings

SHORTEST = 16
"""Characters of a token for the pages: shorter ones can be guessed by many sources together."""


class TokenUnusable(Exception):
    """A token that a setting references is missing, or too short; one line that names the setting."""


def accepted_tokens(settings: Settings) -> list[tuple[str, str]]:
    """Setting and reference of each token that the pages accept."""
    given = settings.web_auth
    lists = (("web_auth.view_tokens", given.view_tokens), ("web_auth.operate_tokens", given.operate_tokens))
    return [(name, reference) for name, references in lists for reference in references]


def own_tokens(settings: Settings) -> Iterator[str]:
    """References to the worker's own secrets: registrations may not use them."""
    yield from (reference for _, reference in accepted_tokens(settings))
    plane = settings.control_plane
    for reference in (settings.web_auth.token, settings.gateway.agent_token, settings.gateway.relay_token):
        if reference is not None:
            yield reference
    if plane.token_env is not None:
        yield f"env:{plane.token_env}"
    if plane.token_file is not None:
        yield f"file:{plane.token_file}"


def check_tokens(settings: Settings) -> None:
    """Raises `TokenUnusable` for the first token of the pages that cannot be read or is too short."""
    for setting, reference in accepted_tokens(settings):
        secret = secret_of(reference, setting)
        try:
            length = len(secret.token()) if secret is not None else 0
        except Unsupported as error:
            raise TokenUnusable(error.message) from None
        if length < SHORTEST:
            raise TokenUnusable(f"{setting}: the token of {reference} has fewer than {SHORTEST} characters")


def token_to_show(settings: Settings) -> Secret | None:
    """The token that this process sends to workers; None: none is configured."""
    given = settings.web_auth
    if given.token is not None:
        return secret_of(given.token, "web_auth.token")
    return secret_of(given.view_tokens[0], "web_auth.view_tokens") if given.view_tokens else None


def authorization(secret: Secret | None) -> dict[str, str]:
    """The header with the token, read again. Raises `Unsupported` if it cannot be read."""
    return {} if secret is None else {"Authorization": f"Bearer {secret.token()}"}
