"""A file of agents against the registry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import AgentRegistration
from streams.rules.agents.agents_file_diff import MARK, AgentsFileError, changes, parse

FILE = b"""
[agents.summarizer]
endpoint = "http://127.0.0.1:9000"
capabilities = ["text"]
limits = { maxRequests = 5 }
auth = { env = "TOKEN" }

[agents."with.dots"]
endpoint = "kafka://requests"
metadata = { cancelRecords = true }
"""


def test_every_field_of_a_registration_may_be_given() -> None:
    """And each bears the mark beside its own metadata."""
    found = parse(FILE, "me")
    assert found["summarizer"].limits is not None
    assert found["summarizer"].limits.max_requests == 5
    assert found["with.dots"].metadata == {"cancelRecords": True, MARK: "me"}
    assert found["with.dots"].transport == "kafka"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[agents", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"[agent.a]\nendpoint='http://h'", "agent: unknown"),
        (b"agents = 3", "agents: must be tables"),
        (b"agents.a = 3", "agents.a: must be a table"),
        (
            b"[agents.a]\nendpoint='http://h'\ncapabilites=['x']",
            r"agents\.a\.capabilites: unknown; did you mean capabilities",
        ),
        (b"[agents.a]\nid='b'\nendpoint='http://h'", r"agents\.a\.id: unknown"),
        (b"[agents.a]", "agents.a: endpoint"),
        (b"[agents.a]\nendpoint='nowhere'", "agents.a: endpoint: the protocol cannot be derived"),
        (b"[agents.a]\nendpoint='http://h'\nmetadata=3", "agents.a.metadata: must be a table"),
    ],
)
def test_what_is_no_agents_file_is_refused(content: bytes, said: str) -> None:
    """In one line that names the place."""
    with pytest.raises(AgentsFileError, match=said) as caught:
        parse(content, "me")
    assert "\n" not in str(caught.value)


_IDS = st.sampled_from("abcde")
_REGISTRY = st.dictionaries(
    _IDS, st.tuples(st.sampled_from(["me", "you", None]), st.sampled_from(["http://1", "http://2"]))
)
_AGENTS_FILE = st.dictionaries(_IDS, st.sampled_from(["http://1", "http://2"]))


@given(_AGENTS_FILE, _REGISTRY)
def test_after_the_changes_the_registry_says_what_the_file_says_and_others_are_untouched(
    wanted_agents: dict[str, str], registry: dict[str, tuple[str | None, str]]
) -> None:
    """And asking again changes nothing."""
    wanted = {key: AgentRegistration(id=key, endpoint=url, metadata={MARK: "me"}) for key, url in wanted_agents.items()}
    there = {
        key: AgentRegistration(id=key, endpoint=url, metadata=None if mark is None else {MARK: mark})
        for key, (mark, url) in registry.items()
    }
    after = dict(there)
    for key, agent in changes(wanted, there.values(), "me"):
        if agent is None:
            assert there[key].metadata == {MARK: "me"}
            del after[key]
        else:
            after[key] = agent
    assert {key: agent for key, agent in after.items() if (agent.metadata or {}).get(MARK) == "me"} == wanted
    untouched = {key for key, (mark, _) in registry.items() if mark != "me" and key not in wanted_agents}
    assert all(after[key] == there[key] for key in untouched)
    assert changes(wanted, after.values(), "me") == []
