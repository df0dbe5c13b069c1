"""`parallax agents` against the embedded broker: `add`, `ls`, `rm`, `circuit`, and `probe` of agents of many kinds."""

from __future__ import annotations

import orjson

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.openai.fake import FakeChat
from streams.broker.client import send_keyed
from tests.support.cli import Cli, as_lines
from tests.support.cli import cli as cli
from tests.support.cli import ready as ready


async def test_agents_come_and_go(ready: Cli) -> None:
    """add prints what it wrote, ls finds it, rm removes it, a second rm exits 4."""
    added = await ready(
        "agents", "add", "a1", "http://127.0.0.1:9/x", "--capability", "text", "--capability", "math",
        "--max-requests", "7", "--window", "30s", "--max-concurrency", "2", "-o", "json",
    )  # fmt: skip
    assert added.code == 0, added.err
    wanted = {
        "id": "a1",
        "endpoint": "http://127.0.0.1:9/x",
        "capabilities": ["text", "math"],
        "limits": {"maxRequests": 7, "windowMs": 30_000, "maxConcurrency": 2},
    }
    assert orjson.loads(added.out) == [wanted]
    assert (await ready("agents", "ls", "-o", "jsonl")).lines() == [wanted]
    assert "30s" in (await ready("agents", "ls")).out
    assert (await ready("agents", "circuit", "a1", "shut")).code == 2
    assert (await ready("agents", "circuit", "nobody", "open")).code == 4
    assert (await ready("agents", "circuit", "a1", "open", "-o", "jsonl")).lines() == [{"id": "a1", "mode": "open"}]
    assert (await ready("agents", "ls", "-o", "jsonl")).lines() == [wanted | {"breaker": {"mode": "open"}}]
    assert (await ready("agents", "rm", "a1")).code == 0
    assert (await ready("agents", "ls", "-o", "json")).out.strip() == "[]"
    gone = await ready("agents", "rm", "a1")
    assert (gone.code, gone.out) == (4, "")


async def test_agents_from_a_file_are_all_or_none(ready: Cli) -> None:
    """A bad line names its number, field and reason, and nothing is registered."""
    good = {"id": "a1", "endpoint": "http://h:1"}
    file = ready.directory / "agents.jsonl"
    file.write_bytes(as_lines(good, {"id": "a2", "endpoint": "nowhere"}))
    refused = await ready("agents", "add", "--file", str(file))
    assert refused.code == 2
    assert "line 2: endpoint" in refused.err
    assert (await ready("agents", "ls", "-o", "json")).out.strip() == "[]"
    file.write_bytes(as_lines(good, {"id": "a2", "endpoint": "grpc://h:2"}))
    assert (await ready("agents", "add", "--file", str(file))).code == 0
    assert [row["id"] for row in (await ready("agents", "ls", "-o", "jsonl")).lines()] == ["a1", "a2"]


async def test_an_agent_whose_lease_ended_is_not_listed_and_can_be_removed(ready: Cli) -> None:
    """Its registration is only remembered, in case it comes back."""
    lease = {"id": "x.gone", "ttl": 1000, "expires": 1_700_000_000_000, "ended": 1_700_000_002_001}
    file = ready.directory / "agents.jsonl"
    gone = {"id": "gone", "endpoint": "grpc://h:1", "metadata": {"lease": lease}}
    file.write_bytes(as_lines(gone, {"id": "here", "endpoint": "grpc://h:2"}))
    assert (await ready("agents", "add", "--file", str(file))).code == 0
    assert [row["id"] for row in (await ready("agents", "ls", "-o", "jsonl")).lines()] == ["here"]
    assert (await ready("agents", "rm", "gone")).code == 0


async def test_add_asks_the_address_what_is_there(ready: Cli) -> None:
    """Found out: protocol, name, capabilities, tool; what was given stands above it; stdout stays data."""
    async with FakeA2a(answer()) as a2a, FakeMcp(answer()) as mcp, FakeChat(answer()) as chat:
        said = await ready("agents", "add", "a", a2a.endpoint, "-o", "jsonl")
        assert said.lines() == [
            {
                "id": "a",
                "endpoint": a2a.endpoint,
                "protocol": "a2a",
                "name": "Fake",
                "capabilities": ["sum", "maths"],
            }
        ]
        assert "there is an A2A 1.0 agent 'Fake'" in said.err
        said = await ready("agents", "add", "m", mcp.endpoint, "--capability", "mine", "-o", "jsonl")
        assert said.lines()[0]["metadata"] == {"tool": "analyze"}
        assert said.lines()[0]["capabilities"] == ["mine"]
        said = await ready("agents", "add", "c", chat.endpoint, "--metadata", "model=x", "--metadata", "temperature=0")
        assert said.code == 0
        left = await ready("agents", "add", "plain", a2a.endpoint, "--no-discover")
        assert (left.code, "there is" in left.err) == (0, False)
        rows = {row["id"]: row for row in (await ready("agents", "ls", "-o", "jsonl")).lines()}
        assert rows["c"]["metadata"] == {"model": "x", "temperature": 0}
        assert rows["c"]["protocol"] == "openai"
        assert "protocol" not in rows["plain"]


async def test_add_goes_on_when_nobody_is_there(ready: Cli) -> None:
    """The agent may come later."""
    said = await ready("agents", "add", "a", "http://127.0.0.1:9", "--auth-env", "TOKEN", "-o", "jsonl")
    assert said.code == 0
    assert said.lines() == [{"id": "a", "endpoint": "http://127.0.0.1:9", "auth": {"env": "TOKEN"}}]
    assert "no agent of a known protocol answered" in said.err


async def test_probe_asks_agents_of_every_protocol(ready: Cli) -> None:
    """Well, not well, and not to be asked; exit 1 for the second, 4 for one that is not registered."""
    async with FakeAgent() as http, FakeMcp() as mcp, FakeChat() as chat:
        mcp.healthy = False
        for name, endpoint, options in (
            ("http", http.endpoint, ()),
            ("mcp", mcp.endpoint, ("--protocol", "mcp", "--metadata", "tool=analyze")),
            ("chat", chat.endpoint, ("--protocol", "openai", "--metadata", "model=m")),
            ("kafka", "kafka://nowhere", ()),
        ):
            assert (await ready("agents", "add", name, endpoint, *options)).code == 0
        lame = orjson.dumps({"id": "lame", "endpoint": chat.endpoint, "protocol": "openai"})
        await send_keyed(ready.settings, "agents", [(b"lame", lame)])
        said = await ready("agents", "probe", "-o", "jsonl")
        assert said.code == 1
        rows = {row["id"]: row for row in said.lines()}
        assert {name: row["health"] for name, row in rows.items()} == {
            "http": "healthy",
            "mcp": "unhealthy",
            "chat": "healthy",
            "lame": "unknown",
            "kafka": "unhealthy",
        }
        assert "metadata.model" in rows["lame"]["detail"]
        assert rows["kafka"]["detail"] == "there is no topic nowhere"
        assert "503" in rows["mcp"]["detail"]
        assert "unhealthy: kafka, mcp" in said.err
        assert (await ready("agents", "probe", "http", "lame", "--timeout", "2s")).code == 0
        gone = await ready("agents", "probe", "nobody")
        assert (gone.code, "not registered: nobody" in gone.err) == (4, True)


async def test_what_cannot_work_is_refused_when_it_is_added(ready: Cli) -> None:
    """With the reason; nothing is registered. `tests/unit/test_registration_check.py` has the other reasons."""
    async with FakeMcp(answer()) as mcp:
        mcp.tools = ["judge", "delete_all"]
        said = await ready("agents", "add", "a", mcp.endpoint, "--protocol", "mcp", "--metadata", "tool=nosuch")
        assert (said.code, "no 'nosuch', only judge, delete_all" in said.err) == (2, True)
        said = await ready("agents", "add", "m", mcp.endpoint, "--metadata", "tool=judge", "-o", "jsonl")
        assert said.lines()[0]["capabilities"] == ["judge"]
        assert [row["id"] for row in (await ready("agents", "ls", "-o", "jsonl")).lines()] == ["m"]
