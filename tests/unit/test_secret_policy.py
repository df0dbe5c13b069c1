"""Which secrets a registration may refer to, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from agents_io.errors import Unsupported
from agents_io.protocols.transports import Transports
from agents_io.rules.secret_policy import SecretPolicy
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from streams.agents.transports import secret_policy
from streams.settings import Settings
from tests.support.dispatching import FakeTransport

pytestmark = pytest.mark.virtual_time


def agent(auth: dict[str, Any] | None = None, **metadata: Any) -> AgentRegistration:
    """A registration."""
    return AgentRegistration.model_validate({"id": "a", "endpoint": "http://h", "auth": auth, "metadata": metadata})


@pytest.mark.parametrize("name", ["PARALLAX_KAFKA__SASL_PASSWORD", "parallax_kafka__sasl_password", "PARALLAX_X"])
def test_the_pipelines_own_variables_are_never_sent(name: str) -> None:
    """Not even if the operator says anything goes."""
    with pytest.raises(Unsupported, match=r"secrets\.env"):
        SecretPolicy(("*", name)).check(agent({"env": name}))


@pytest.mark.parametrize("name", ["VIEW", "OPERATE", "SHOWN", "AGENTS", "RELAY", "PLANE"])
def test_the_workers_own_tokens_are_never_sent(name: str) -> None:
    """Whichever setting refers to them, as a variable or as a file; one beside them is."""
    given = {
        "web_auth": {"view_tokens": "env:VIEW,file:/s/VIEW", "operate_tokens": "env:OPERATE,file:/s/OPERATE"},
        "gateway": {"agent_token": "env:AGENTS", "relay_token": "env:RELAY"},
        "control_plane": {"token_env": "PLANE"},
    }
    files = {
        "web_auth": {"token": "file:/s/SHOWN"},
        "gateway": {"agent_token": "file:/s/AGENTS", "relay_token": "file:/s/RELAY"},
        "control_plane": {"token_file": "/s/PLANE"},
    }
    given["web_auth"]["token"] = "env:SHOWN"
    with pytest.raises(Unsupported, match="may not be used"):
        secret_policy(Settings.model_validate(given)).check(agent({"env": name}))
    policy = secret_policy(
        Settings.model_validate({**given, **files, "web_auth": given["web_auth"] | files["web_auth"]})
    )
    for auth, tls in ((f"/s/{name}", {}), ("/s/fine", {"caFile": f"/s/x/../{name}"})):
        with pytest.raises(Unsupported, match="may not be used"):
            policy.check(agent({"file": auth}, tls=tls))
    policy.check(agent({"env": f"{name}_OF_AGENT"}))
    policy.check(agent({"file": f"/s/{name}.agent"}))


@pytest.mark.parametrize(
    ("auth", "metadata", "fits"),
    [
        (None, {}, True),
        ({"env": "AGENT_A"}, {}, True),
        ({"env": "AWS_SECRET_ACCESS_KEY"}, {}, False),
        ({"env": "XAGENT_A"}, {}, False),
        ({"file": "/run/agents/a"}, {}, True),
        ({"file": "/run/agents/../secret"}, {}, False),
        ({"file": "/run/agents-old/a"}, {}, False),
        ({"file": "/run/agents"}, {}, False),
        ({"file": "run/agents/a"}, {}, False),
        ({"file": "/etc/token"}, {}, False),
        (None, {"tls": {"caFile": "/run/agents/ca.pem"}}, True),
        (None, {"tls": {"caFile": "/run/agents/ca.pem", "keyFile": "/etc/ssl/private/key"}}, False),
    ],
)
def test_what_the_operator_allows(auth: dict[str, Any] | None, metadata: dict[str, Any], fits: bool) -> None:
    """Variables by pattern, files by directory."""
    policy = SecretPolicy(("AGENT_*",), "/run/agents/")
    if fits:
        policy.check(agent(auth, **metadata))
    else:
        with pytest.raises(Unsupported, match=r"may not be used"):
            policy.check(agent(auth, **metadata))


async def test_it_holds_for_every_protocol() -> None:
    """Calls and health checks; nothing is sent."""
    inner = FakeTransport()
    transports = Transports({"http": inner}, SecretPolicy(("AGENT_*",)))
    call = Call("t", "k", b"{}", 1.0)
    assert await transports.call(agent({"env": "AGENT_A"}), call) == Answer("ok", 0.9)
    for wait in (transports.call(agent({"env": "HOME"}), call), transports.check_health(agent({"env": "HOME"}), 1.0)):
        with pytest.raises(Unsupported):
            await wait
    assert len(inner.calls) == 1
