"""What the doctor says of the port that agents dial; of brokers: `tests/pipeline/test_cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streams.cli.doctor import _port_of_agents
from streams.settings import Settings

CERTS = Path(__file__).parent.parent / "support" / "tls"


@pytest.mark.parametrize(
    ("files", "state", "detail"),
    [
        ({"client_ca_file": "authority.pem"}, "ok", "TLS, for those who show a certificate"),
        ({}, "ok", "TLS"),
        ({"key_file": "server.key"}, "failed", "grpc_tls.key_file: "),
        (
            {"client_ca_file": "stranger.pem"},
            "warning",
            "workers with these settings cannot call each other: grpc_tls.client",
        ),
    ],
)
def test_files_are_judged_as_a_worker_would(
    files: dict[str, str], state: str, detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row, and nothing beside it on stdout."""
    usual = {"cert_file": "worker.pem", "key_file": "worker.key", "ca_file": "authority.pem"}
    given = {name: str(CERTS / file) for name, file in (usual | files).items()}
    [row] = _port_of_agents(Settings.model_validate({"grpc_tls": given}))
    assert (row["check"], row["state"]) == ("grpc", state)
    assert row["detail"].startswith(detail)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("host", "states"), [("127.0.0.1", []), ("0.0.0.0", ["warning"])])
def test_plain_text_is_for_this_machine(host: str, states: list[Any]) -> None:
    """Elsewhere it is worth a word."""
    assert [row["state"] for row in _port_of_agents(Settings(grpc_host=host))] == states
