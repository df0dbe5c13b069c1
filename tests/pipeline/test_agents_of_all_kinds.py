"""A worker as a process, agents of each protocol in a file: every task is answered, and a removed agent is gone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import compute
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.kafka.fake import FakeKafkaAgent
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.openai.fake import FakeChat
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import ensure
from tests.support.pipeline import pipeline_on, stop
from tests.support.rig import start_worker
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(150)]


def agents_file(agents: dict[str, FakeAgent]) -> str:
    """The file's text."""
    more = {"openai": 'metadata = { model = "m" }', "mcp": 'metadata = { tool = "analyze" }'}
    return "".join(
        f'[agents.{name}]\nendpoint = "{agent.endpoint}"\nprotocol = "{name}"\n{more.get(name, "")}\n'
        for name, agent in agents.items()
    )


async def test_every_protocol_from_the_file_to_the_result(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """Five protocols, ten tasks each; one agent taken out of the file no longer answers."""
    echo = compute(lambda payload: {"value": payload["n"], "confidence": 1})
    agents = {
        "http": FakeAgent(echo),
        "openai": FakeChat(echo),
        "a2a": FakeA2a(echo),
        "mcp": FakeMcp(echo),
        "kafka": FakeKafkaAgent(embedded.bootstrap_servers, "requests", echo),
    }
    file = tmp_path / "agents.toml"
    async with AsyncExitStack() as stack:
        pipeline = await stack.enter_async_context(pipeline_on(embedded.bootstrap_servers, prefix, 2))
        await ensure(pipeline.settings, "requests", 2, {})
        for agent in agents.values():
            await stack.enter_async_context(agent)
        file.write_text(agents_file(agents))
        environment = {"PARALLAX_AGENTS_FILE": str(file)}
        worker = start_worker(
            embedded.bootstrap_servers, prefix, "--roles", "dispatch", "-o", "json", env=environment, wait=False
        )
        pipeline.workers.append(worker)
        try:
            pipeline.web = orjson.loads(await asyncio.to_thread(worker.line, 90))["web"]
            await pipeline.tasks(range(50), list(agents))
            results = await pipeline.results(f"t{n}" for n in range(50))
            assert {result["status"] for result in results.values()} == {"success"}, results
            assert all(results[f"t{n}"]["result"] == n for n in range(50))
            assert {len(agent.calls) for agent in agents.values()} == {10}
            del agents["mcp"]
            file.write_text(agents_file(agents))

            async def removed() -> bool:
                return "mcp" not in str(await pipeline.get("/api/v1/agents"))

            await until(removed)
            await pipeline.send("tasks", [(None, {"id": "late", "type": "agent", "target": "mcp", "payload": {}})])
            late = (await pipeline.results(["late"]))["late"]
            assert late["error"]["code"] == "no_agent"
        finally:
            await stop(worker)
