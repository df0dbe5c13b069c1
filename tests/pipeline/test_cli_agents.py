"""`parallax agents add` without a protocol, and `parallax agents probe`, against the embedded broker and agents of many kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.openai.fake import FakeChat
from streams.broker.client import send_keyed
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from tests.pipeline.test_cli import Cli


@pytest.fixture
async def ready(embedded: EmbeddedBroker, settings_for: Any, tmp_path: Path) -> Cli:
    """The command line, with all topics."""
    cli = Cli(settings_for(embedded), tmp_path)
    await apply(cli.settings, partitions=2)
    return cli


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
    assert "nothing we know answered" in said.err


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
