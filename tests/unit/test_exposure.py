"""A worker that would serve other machines without asking for a token does not start, and names the settings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams.cli.doctor import check_open_addresses
from streams.exposure import Exposed, open_addresses, refuse_exposure
from streams.settings import Settings, SettingsError, load
from streams.tokens import TokenUnusable
from streams.worker import WorkerError, run

TOKEN = {"web_auth": {"view_tokens": "env:VIEW"}}
GRPC = {"gateway": {"agent_token": "env:AGENTS"}}


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEW", "view-token-0123456789")


def settings(**given: Any) -> Settings:
    """As a file would give them."""
    return Settings.model_validate(given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, ()),
        ({"web_host": "localhost", "grpc_host": "::1"}, ()),
        ({"web_host": "0.0.0.0"}, ("web_host 0.0.0.0", "web_auth.view_tokens", "--insecure")),
        ({"web_host": ""}, ("web_auth.view_tokens",)),
        ({"web_host": "worker-1.example"}, ("web_auth.view_tokens",)),
        ({"grpc_host": "::"}, ("grpc_host ::", "gateway.agent_token", "--insecure")),
        ({"grpc_host": "::", "roles": "stats"}, ()),
        ({"web_host": "0.0.0.0"} | TOKEN, ()),
        (
            {"web_host": "0.0.0.0", "web_auth": {"proxy_header": "X-User", "proxy_networks": "10.0.0.7/32"}},
            (),
        ),
        ({"web_host": "0.0.0.0", "grpc_host": "0.0.0.0"} | TOKEN, ("gateway.agent_token",)),
        ({"web_host": "0.0.0.0", "grpc_host": "0.0.0.0"} | GRPC, ("web_auth.view_tokens",)),
        ({"web_host": "0.0.0.0", "grpc_host": "0.0.0.0"} | GRPC | TOKEN, ()),
        ({"grpc_host": "0.0.0.0", "grpc_tls": {"cert_file": "c", "client_ca_file": "a"}}, ()),
        ({"grpc_host": "0.0.0.0", "grpc_tls": {"cert_file": "c"}}, ("gateway.agent_token",)),
    ],
)
def test_what_is_open_to_everybody(given: dict[str, Any], named: tuple[str, ...]) -> None:
    """By address and by what is asked there; the doctor says the same."""
    wanted = settings(**given)
    found = open_addresses(wanted)
    assert bool(found) == bool(named)
    assert all(name in "; ".join(found) for name in named)
    assert [row["detail"] for row in check_open_addresses(wanted)] == found
    if named:
        with pytest.raises(Exposed):
            refuse_exposure(wanted)
    else:
        refuse_exposure(wanted)
    refuse_exposure(settings(**given, insecure=True))


async def test_such_a_worker_does_not_start() -> None:
    """Before it asks for a broker; exit 1."""
    with pytest.raises(WorkerError, match=r"web_auth\.view_tokens") as caught:
        await run(settings(web_host="0.0.0.0"), on_ready=lambda addresses: None, stop=asyncio.Event())
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("env:NO_SUCH_TOKEN", "is not set"),
        ("file:/no/such/token", "cannot be read"),
        ("env:SHORT", "fewer than 16 characters"),
        ("env:BLANK", "holds no token"),
    ],
)
def test_a_token_that_cannot_serve_is_named_at_the_start(
    reference: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on loopback: a setting that does nothing would look as if it did."""
    monkeypatch.setenv("SHORT", "fifteen-letters")
    monkeypatch.setenv("BLANK", "  ")
    wanted = settings(web_auth={"operate_tokens": reference})
    with pytest.raises(TokenUnusable, match=rf"web_auth\.operate_tokens: .*{why}") as caught:
        refuse_exposure(wanted)
    assert "fifteen" not in str(caught.value)
    assert [row["state"] for row in check_open_addresses(wanted)] == ["failed"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"PARALLAX_WEB_AUTH__VIEW_TOKENS": "s3cret-in-the-clear"}, "PARALLAX_WEB_AUTH__VIEW_TOKENS: "),
        ({"PARALLAX_WEB_AUTH__PROXY_HEADER": "X-User"}, "proxy_networks belong together"),
        ({"PARALLAX_WEB_AUTH__PROXY_NETWORKS": "10.0.0.0/8"}, "proxy_networks belong together"),
        (
            {"PARALLAX_WEB_AUTH__PROXY_HEADER": "X-User", "PARALLAX_WEB_AUTH__PROXY_NETWORKS": "10.0.0.1/8"},
            "proxy_networks: '10.0.0.1/8' is no network",
        ),
        (
            {"PARALLAX_WEB_AUTH__PROXY_HEADER": "Authorization", "PARALLAX_WEB_AUTH__PROXY_NETWORKS": "10.0.0.0/8"},
            "proxy_header: Authorization",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, str], said: str) -> None:
    """With their names; a token in place of a reference is not repeated."""
    with pytest.raises(SettingsError, match=said) as caught:
        load({}, given)
    assert "s3cret" not in str(caught.value)
