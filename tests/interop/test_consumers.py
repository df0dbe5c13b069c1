"""The example for Node: tasks, results, events and anomalies with kafkajs alone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from streams.broker.embedded import EmbeddedBroker
from streams.testing import FakeAgent
from tests.interop.environments import ROOT, node_home
from tests.support.foreign import ANOMALY, check
from tests.support.pipeline import WIDE, pipeline_on, stop
from tests.support.rig import Process

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]
EXAMPLE = ROOT / "docs" / "examples" / "consumer.mjs"


async def test_the_node_example_sends_tasks_and_reads_what_comes_of_them(embedded: EmbeddedBroker, prefix: str) -> None:
    """As documented: `node consumer.mjs summarizer 3`."""
    script = Path(shutil.copy(EXAMPLE, await asyncio.to_thread(node_home)))
    async with (
        pipeline_on(embedded.bootstrap_servers, prefix) as pipeline,
        FakeAgent("short", id="summarizer", confidence=0.9) as agent,
    ):
        await pipeline.register({"id": "summarizer", "endpoint": agent.endpoint, "limits": WIDE})
        worker = await pipeline.start()
        await pipeline.send("anomalies", [("summarizer", ANOMALY)])
        consumer = Process(
            ["node", str(script), "summarizer", "3"], {"KAFKA": embedded.bootstrap_servers, "PREFIX": prefix}
        )
        try:
            await asyncio.to_thread(check, consumer, 3)
        finally:
            consumer.popen.kill()
            await stop(worker)
