"""What the doctor says of the port that agents dial, and of retention; of brokers: `tests/pipeline/test_cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streams.cli.doctor import check_port_of_agents, short_retentions
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
    [row] = check_port_of_agents(Settings.model_validate({"grpc_tls": given}))
    assert (row["check"], row["state"]) == ("grpc", state)
    assert row["detail"].startswith(detail)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("host", "states"), [("127.0.0.1", []), ("0.0.0.0", ["warning"])])
def test_plain_text_is_for_this_machine(host: str, states: list[Any]) -> None:
    """Elsewhere it is worth a word."""
    assert [row["state"] for row in check_port_of_agents(Settings(grpc_host=host))] == states


def test_a_topic_that_keeps_tasks_for_less_than_they_may_wait_is_named() -> None:
    """One line each, with both times; tasks without a limit outlast any retention."""
    kept = {"p.tasks": 3_600_000, "p.dispatch": 7 * 86_400_000}
    [line] = short_retentions(kept, 86_400_000)
    assert line.startswith("p.tasks keeps records for 1 h, but tasks may wait 24 h")
    assert short_retentions(kept, 3_600_000) == []
    assert [line.split()[0] for line in short_retentions(kept, 0)] == ["p.tasks", "p.dispatch"]
