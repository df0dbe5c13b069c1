"""What a registration may say, and what is refused when it is made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agents_io.errors import Unsupported
from agents_io.protocols.metadata_keys import BY_NAME, TABLE, WRITTEN, help_text, read_value
from agents_io.protocols.openai.rules.config import NAMED
from agents_io.protocols.probing import Found
from agents_io.protocols.registration_check import check_registration
from schemas.codec import Rejected, validate
from schemas.messages import AgentRegistration
from streams.cli.agents_asked import filled
from streams.cli.options import CommandError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "metadata-keys.md"


@pytest.mark.parametrize(
    ("endpoint", "metadata", "reason"),
    [
        ("http://127.0.0.1:99999", None, "endpoint"),
        ("https://", None, "endpoint"),
        ("grpc://h:99999", None, "host and a port"),
        ("grpc://h", None, "host and a port"),
        ("kafka://a/b", None, "kafka://TOPIC"),
        ("openai://h/v1", None, "metadata.model"),
        ("openai://h/v1", {"model": "m", "responseFormat": "xml"}, "metadata.responseFormat"),
        ("openai://h/v1", {"model": "m", "temperature": "hot"}, "metadata.temperature: must be a number"),
        ("mcp://h/mcp", None, "metadata.tool"),
        ("mcp://h/mcp", {"tool": "t", "argumentsPath": "a["}, "metadata.argumentsPath"),
        ("a2a://h", {"a2aVersion": "7"}, "metadata.a2aVersion"),
        ("a2a://h", {"a2aBinding": "GRPC"}, r"metadata.a2aBinding: must be one of JSONRPC, HTTP\+JSON"),
        ("a2a://h", {"blocking": "yes"}, "metadata.blocking: must be true or false"),
        ("http://h", {"valuePath": "a["}, "metadata.valuePath"),
        ("http://h", {"defaultConfidence": 2}, "metadata.defaultConfidence"),
        ("http://h", {"tls": {"caFile": 1}}, "tls"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field(endpoint: str, metadata: Any, reason: str) -> None:
    """Before it reaches the topic."""
    with pytest.raises(Unsupported, match=reason):
        check_registration(AgentRegistration(id="a", endpoint=endpoint, metadata=metadata))


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://me:s3cret@h", None),
        ("https://s3cret@h/path", None),
        ("openai://me:s3@cret@h/v1", None),
        ("a2a://me:s3cret@h", None),
        ("mcp://me:s3cret@h?x=1", None),
        ("grpc://me:s3cret@h:1", None),
        ("me:s3cret@h:1", "grpc"),
        ("ftp://me:s3cret@h", None),
        ("http://h@s3cret#x", None),
    ],
)
def test_no_endpoint_holds_a_user_name_or_a_password(endpoint: str, protocol: str | None) -> None:
    """The topic and the pages show it to everybody. The error names the field and repeats nothing."""
    with pytest.raises(Rejected) as caught:
        validate(AgentRegistration, {"id": "a", "endpoint": endpoint, "protocol": protocol, "metadata": {"tool": 5}})
    assert caught.value.reason.startswith("endpoint: must hold no user name or password")
    assert "cret" not in caught.value.reason.replace("the secret with auth", "")


@pytest.mark.parametrize("endpoint", ["http://h/a@b", "http://h?mail=a@b", "gateway://a@b", "kafka://a@b"])
def test_an_at_sign_elsewhere_is_no_user_name(endpoint: str) -> None:
    """In a path, a query, or the id of an agent that dials in."""
    assert validate(AgentRegistration, {"id": "a", "endpoint": endpoint}).endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "metadata"),
    [
        ("http://h:1", {"mine": [1], "tool": 5}),
        ("grpcs://h", None),
        ("kafka://topic", {"cancelRecords": True}),
        ("openai://h/v1", {"model": "m", "temperature": 0}),
        ("mcp://h/mcp", {"tool": "t"}),
        ("a2a://h", {"a2aVersion": 0.3, "a2aBinding": "http+json"}),
        ("gateway://a", {"gateway": {}}),
    ],
)
def test_what_can_work_is_not(endpoint: str, metadata: Any) -> None:
    """Unknown keys, and other protocols' keys, are the user's own."""
    check_registration(AgentRegistration(id="a", endpoint=endpoint, metadata=metadata))


@pytest.mark.parametrize("name", sorted({key.name for key in TABLE if key.kind in ("text", "version")}))
def test_text_of_the_command_line_stays_text(name: str) -> None:
    """A version, a model or a tool may look like a number."""
    for text in ("0.3", "007", "true", "null", '{"a":1}'):
        assert read_value(name, text) == text


def test_other_values_are_read_as_their_key_wants() -> None:
    """JSON where it is JSON."""
    assert (read_value("blocking", "true"), read_value("temperature", "0.5")) == (True, 0.5)
    assert read_value("valueSchema", '{"type":"number"}') == {"type": "number"}
    for name, text in (("blocking", "1"), ("temperature", "warm"), ("valueSchema", "[]")):
        with pytest.raises(ValueError, match=f"metadata.{name}"):
            read_value(name, text)


def test_reference_and_help_show_every_key() -> None:
    """Generated from the one declaration: `make reference`."""
    assert all(f"| `{name}` |" in REFERENCE.read_text("utf-8") for name in BY_NAME)
    assert all(name in help_text() for name in BY_NAME)


MCP = Found("mcp", "", choices=("judge", "delete_all"), choice="tool", choice_is_capability=True)
GIVEN = {"id": "a", "endpoint": "http://h/mcp"}


@pytest.mark.parametrize(
    ("metadata", "found", "reason"),
    [
        ({}, MCP, "choose with --metadata tool=NAME; there is judge, delete_all"),
        ({"tool": "nosuch"}, MCP, "no 'nosuch', only judge, delete_all"),
        (
            {},
            Found("openai", "", choices=("m1", "m2"), choice="model"),
            "choose with --metadata model=NAME; there is m1, m2",
        ),
        ({}, Found("mcp", "", choice="tool", choice_is_capability=True), "no tool at all"),
    ],
)
def test_a_choice_that_is_missing_or_wrong(metadata: dict[str, Any], found: Found, reason: str) -> None:
    """It would fail at the first task."""
    with pytest.raises(CommandError, match=reason):
        filled(GIVEN | {"metadata": metadata}, found)


@pytest.mark.parametrize(
    ("limits", "takes", "warning"),
    [
        ({"maxConcurrency": 50}, 10, "takes 10 calls at once, and workers may make 50"),
        ({"maxRequests": 9}, 5, "takes 5 calls at once, and workers may make 10"),
        (None, 5, "set --max-concurrency 5"),
        ({"maxConcurrency": 10}, 10, ""),
        (None, 50, ""),
        ({"maxConcurrency": 500}, None, ""),
    ],
)
def test_more_calls_at_once_than_the_agent_takes_are_reported(
    limits: dict[str, int] | None, takes: int | None, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would answer 429 to the calls beyond, and each 429 pauses the agent."""
    given = {"id": "a", "endpoint": "http://h"} | ({} if limits is None else {"limits": limits})
    assert filled(given, Found("http", "", concurrency=takes)) == given
    told = capsys.readouterr().err
    assert warning in told
    assert bool(told) == bool(warning)


def test_an_agent_has_the_capability_of_its_tool_alone() -> None:
    """Another tool of the server is not this agent's."""
    assert filled(GIVEN | {"metadata": {"tool": "judge"}}, MCP)["capabilities"] == ["judge"]
    given = GIVEN | {"metadata": {"tool": "judge"}, "capabilities": ["mine"]}
    assert filled(given, MCP)["capabilities"] == ["mine"]


@pytest.mark.parametrize(
    ("endpoint", "confidence", "reason"),
    [
        ("http://h", {"from": "path", "path": "a["}, "confidence.path"),
        ("http://h", {"from": "logprobs"}, "logprobs needs protocol openai"),
        ("grpc://h:1", {"from": "constant", "value": 0.5}, "states its confidence"),
        ("http://h", {"from": "judge", "agent": "a"}, "cannot be its own judge"),
    ],
)
def test_a_source_of_confidence_that_cannot_work(endpoint: str, confidence: Any, reason: str) -> None:
    """Refused with the field."""
    agent = AgentRegistration.model_validate({"id": "a", "endpoint": endpoint, "confidence": confidence})
    with pytest.raises(Unsupported, match=reason):
        check_registration(agent)


@pytest.mark.parametrize(
    "confidence",
    [
        {"from": "guess"},
        {"from": "path"},
        {"from": "constant"},
        {"from": "constant", "value": 2},
        {"from": "stated", "value": 0.5},
        {"value": 0.5},
    ],
)
def test_a_source_of_confidence_is_complete_and_known(confidence: Any) -> None:
    """By the message itself, so on the topic too."""
    with pytest.raises(Rejected, match="confidence"):
        validate(AgentRegistration, {"id": "a", "endpoint": "http://h", "confidence": confidence})


@pytest.mark.parametrize("endpoint", ["http://h", "grpc://h:1", "gateway://w", "kafka://topic"])
@pytest.mark.parametrize("confidence", [{"from": "agreement"}, {"from": "judge", "agent": "j"}])
def test_agents_of_every_protocol_can_be_sampled_and_judged(endpoint: str, confidence: Any) -> None:
    """It does not matter how they answer."""
    check_registration(AgentRegistration.model_validate({"id": "a", "endpoint": endpoint, "confidence": confidence}))


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("temperature", 0)])
def test_samples_of_a_model_must_be_able_to_differ(name: str, value: Any) -> None:
    """A model agrees with itself."""
    given = {"id": "a", "endpoint": "openai://h", "metadata": {"model": "m", name: value}}
    check_registration(AgentRegistration.model_validate(given))
    with pytest.raises(Unsupported, match=f"metadata.{name}: "):
        check_registration(AgentRegistration.model_validate(given | {"confidence": {"from": "agreement"}}))


READERS = [
    "agents_io/rules/answer.py",
    *(
        f"agents_io/protocols/{name}.py"
        for name in ("a2a/agent", "a2a/rules/card", "grpc/transport", "kafka/transport")
    ),
    *(f"agents_io/protocols/{name}.py" for name in ("mcp/rules/tool_calls", "openai/rules/config")),
    "streams/statistics/registered.py",
    *(f"streams/rules/agents/{name}.py" for name in ("registrations", "leases", "agents_file_diff", "gateway_claim")),
]
READ = re.compile(r'(?:metadata(?: or {}\))?|given)\.get\("(\w+)"\)|_path\(metadata, "(\w+)"\)')


def test_every_key_that_the_code_reads_is_declared() -> None:
    """So that the table and the help are complete."""
    found = {name for path in READERS for pair in READ.findall((ROOT / path).read_text()) for name in pair if name}
    assert {
        "valuePath",
        "tool",
        "model",
        "detectors",
        "labels",
        "lease",
        "cancelRecords",
        "a2aVersion",
        "a2aBinding",
    } <= found
    assert found | set(NAMED) <= set(BY_NAME) | set(WRITTEN)
