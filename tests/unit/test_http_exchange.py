"""What transports over HTTP share: one thing per agent, endpoints, the whole attempt under one timeout."""

from __future__ import annotations

import asyncio

import pytest

from agents_io.errors import CallTimeout, Expired, Unsupported
from agents_io.http.exchange import within
from agents_io.http.peer import below, web_url
from agents_io.per_agent import PerAgent
from schemas.messages import AgentRegistration

pytestmark = pytest.mark.virtual_time


def agent(number: int = 0, endpoint: str = "http://h") -> AgentRegistration:
    """A registration."""
    return AgentRegistration(id=f"a{number}", endpoint=endpoint)


def test_one_for_each_registration_and_the_longest_unused_is_forgotten() -> None:
    """Sessions and cards are kept there: the number must be bounded, and a new registration starts anew."""
    made: list[AgentRegistration] = []

    def make(one: AgentRegistration) -> int:
        made.append(one)
        return len(made)

    kept = PerAgent(make, size=2)
    first, second, third = agent(0), agent(1), agent(2)
    assert [kept.get(first), kept.get(second), kept.get(first), kept.get(third)] == [1, 2, 1, 3]
    assert kept.all() == [1, 3]
    assert kept.get(second) == 4
    assert kept.get(agent(1)) == 5
    assert len(kept.all()) == 2


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("mcp://h:8/x", "https://h:8/x"),
        ("a2a://h", "https://h"),
        ("openai://h/v1", "https://h/v1"),
        ("http://h/a", "http://h/a"),
    ],
)
def test_schemes_of_protocols_stand_for_https(endpoint: str, url: str) -> None:
    """A token in the clear must be asked for by http:// and --protocol."""
    assert str(web_url(agent(endpoint=endpoint))) == url


def test_scheme_of_another_protocol_is_none_of_ours() -> None:
    """grpc:// is no URL for HTTP."""
    with pytest.raises(Unsupported, match="endpoint"):
        web_url(AgentRegistration(id="a", endpoint="grpc://h:1", protocol="mcp"))


def test_path_below_keeps_the_query_and_what_is_escaped() -> None:
    """As it was registered."""
    base = web_url(agent(endpoint="http://h/a%2Fb/?key=1"))
    assert str(below(base, "analyze").httpx) == "http://h/a%2Fb/analyze?key=1"
    assert str(below(base, "").httpx) == "http://h/a%2Fb/?key=1"


async def test_no_time_begins_nothing_and_little_time_ends_it() -> None:
    """Also time that is no number."""
    begun = []

    async def work() -> None:
        begun.append(1)
        await asyncio.sleep(60)

    for none in (0.0, -1.0, float("nan")):
        with pytest.raises(Expired):
            await within(none, work)
    assert begun == []
    with pytest.raises(CallTimeout, match=r"no answer within 0\.01 s"):
        await within(0.01, work)
    assert begun == [1]
