"""`parallax agent serve`: what the command hands to the agent."""

from __future__ import annotations

from typing import Any

import pytest

from agents_io.serving import AgentFunction
from streams.broker import kafka
from streams.cli.main import invoke


def test_an_agent_that_consumes_logs_in_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reached(*_: Any) -> None:
        pass

    given: dict[str, Any] = {}
    monkeypatch.setattr(kafka, "reach", reached)
    monkeypatch.setattr(AgentFunction, "consume", lambda _, *servers, **options: given.update(options, args=servers))
    for name, value in {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_USERNAME": "agents", "SASL_PASSWORD": "s"}.items():
        monkeypatch.setenv(f"PARALLAX_KAFKA__{name}", value)
    assert invoke(["agent", "serve", "tests.support.own_agents:price", "--consume", "broker:9093"]) == 0
    logged_in = (given.get("security_protocol"), given.get("sasl_plain_username"), given.get("sasl_plain_password"))
    assert logged_in == ("SASL_PLAINTEXT", "agents", "s")
    assert "broker:9093" in (given.get("bootstrap_servers"), *given["args"])
