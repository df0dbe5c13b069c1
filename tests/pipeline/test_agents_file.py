"""A file of agents, on the embedded broker: taken at start and at each change, by several workers, never against others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.agents.agents_file import AgentsFile, following
from streams.agents.registration_writer import RegistrationWriter
from streams.agents.table import AgentTable
from streams.broker.client import send_keyed
from streams.broker.embedded import EmbeddedBroker
from streams.broker.kafka import client_options
from streams.broker.topic_feed import read_all
from streams.broker.topics_admin import apply
from streams.engine.event_sink import EventSink
from streams.rules.records import Recorder
from streams.settings import Settings, SettingsError
from tests.conftest import SettingsFor
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(90)]


def agents(**endpoints: str) -> str:
    """The file's text."""
    return "".join(f'[agents.{name}]\nendpoint = "{url}"\n' for name, url in endpoints.items())


@pytest.fixture
async def settings(embedded: EmbeddedBroker, settings_for: SettingsFor, tmp_path: Path) -> Settings:
    """All topics, and a file with one agent."""
    (tmp_path / "agents.toml").write_text(agents(a="http://one"))
    made = settings_for(embedded, agents_file=str(tmp_path / "agents.toml"))
    await apply(made, partitions=1)
    return made


@pytest.fixture
async def table(settings: Settings) -> AsyncIterator[AgentTable]:
    """A worker's table of agents."""
    made = AgentTable(client_options(settings), settings.topic_prefix)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def writer(settings: Settings, table: AgentTable) -> AsyncIterator[RegistrationWriter]:
    """Its hand on the topic."""
    sink = EventSink(options=client_options(settings), prefix=settings.topic_prefix, idempotent=False)
    await sink.start()
    recorder = Recorder(app_id=settings.app_id, processor="dispatch", prefix=settings.topic_prefix, group="group")
    yield RegistrationWriter(
        sink=sink,
        table=table,
        recorder=recorder,
        prefix=settings.topic_prefix,
        wall_ms=lambda: time.time_ns() // 1_000_000,
    )
    await sink.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    monkeypatch.setattr("streams.agents.agents_file.LOOK_S", 0.05)


def write(path: Path, text: str | None) -> None:
    """The file's new content; None: it is gone."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


def there(table: AgentTable) -> dict[str, str]:
    """Id to endpoint."""
    return {agent.id: agent.endpoint for agent in table.all()}


async def written(settings: Settings) -> list[tuple[str, bool]]:
    """Each record of the topic: id, and whether it is a registration."""
    return [((r.key or b"").decode(), r.value is not None) async for r in read_all(settings, "agents")]


async def register(settings: Settings, agent_id: str, endpoint: str) -> None:
    """Somebody else's registration."""
    value: dict[str, Any] = {"id": agent_id, "endpoint": endpoint}
    await send_keyed(settings, "agents", [(agent_id.encode(), orjson.dumps(value))])


async def test_file_is_taken_at_start_and_at_each_change(
    settings: Settings, table: AgentTable, writer: RegistrationWriter
) -> None:
    """New, changed and removed agents; the registry follows."""
    path = Path(str(settings.agents_file))
    async with following(settings, table, writer):
        assert there(table) == {"a": "http://one"}
        write(path, agents(a="http://two", b="http://b"))
        await until(lambda: there(table) == {"a": "http://two", "b": "http://b"})
        write(path, agents(b="http://b"))
        await until(lambda: there(table) == {"b": "http://b"})
    assert await written(settings) == [("a", True), ("a", True), ("b", True), ("a", False)]


async def test_what_others_registered_is_not_removed(
    settings: Settings, table: AgentTable, writer: RegistrationWriter
) -> None:
    """Neither an agent the file never had, nor one that somebody registered anew after the file did."""
    path = Path(str(settings.agents_file))
    write(path, agents(a="http://one", b="http://b"))
    await register(settings, "theirs", "http://theirs")
    async with following(settings, table, writer):
        await register(settings, "b", "http://moved")
        await until(lambda: there(table).get("b") == "http://moved")
        write(path, "")
        await until(lambda: "a" not in there(table))
        assert there(table) == {"theirs": "http://theirs", "b": "http://moved"}


async def test_second_worker_with_the_same_file_writes_nothing(
    settings: Settings, table: AgentTable, writer: RegistrationWriter
) -> None:
    """Nor does the same worker after a restart."""
    for _ in range(3):
        async with following(settings, table, writer):
            await asyncio.sleep(0.2)
    assert await written(settings) == [("a", True)]


async def test_broken_or_missing_file_changes_nothing_while_the_worker_runs(
    settings: Settings, table: AgentTable, writer: RegistrationWriter
) -> None:
    """An editor's slip unregisters nobody; the next good content is taken."""
    path = Path(str(settings.agents_file))
    async with following(settings, table, writer):
        for content in ("[agents", '[agents.a]\nendpoint = "nowhere"'):
            write(path, content)
            await asyncio.sleep(0.3)
            assert there(table) == {"a": "http://one"}
        write(path, None)
        await asyncio.sleep(0.3)
        assert there(table) == {"a": "http://one"}
        write(path, agents(a="http://new"))
        await until(lambda: there(table) == {"a": "http://new"})


async def test_content_is_taken_only_when_two_looks_saw_it(
    settings: Settings, table: AgentTable, writer: RegistrationWriter
) -> None:
    """A file that is being written is not taken half."""
    path = Path(str(settings.agents_file))
    file = AgentsFile(path=path, app_id=settings.app_id, table=table, writer=writer)
    await file.start()
    write(path, "")
    first = await file.check(b"")
    write(path, agents(a="http://two"))
    second = await file.check(first)
    assert there(table) == {"a": "http://one"}
    await file.check(second)
    assert there(table) == {"a": "http://two"}


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("[agents", "is not TOML")])
async def test_worker_does_not_start_on_a_file_it_cannot_read(
    settings: Settings, table: AgentTable, writer: RegistrationWriter, content: str | None, said: str
) -> None:
    """The setting is named."""
    path = Path(str(settings.agents_file))
    write(path, content)
    with pytest.raises(SettingsError, match=rf"agents_file .*{said}"):
        async with following(settings, table, writer):
            pass
