"""The example for a JVM on real Kafka: tasks, results, events and anomalies with kafka-clients and Jackson alone."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from streams.testing import FakeAgent
from tests.support.foreign import ANOMALY, check
from tests.support.kafka import KafkaCluster, jars
from tests.support.pipeline import WIDE, pipeline_on, stop
from tests.support.rig import ROOT, Process

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
EXAMPLE = ROOT / "docs" / "examples" / "Consumer.java"


async def test_the_jvm_example_sends_tasks_and_reads_what_comes_of_them(kafka: KafkaCluster, prefix: str) -> None:
    """As documented: `java -cp 'libs/*' Consumer.java localhost:9092 summarizer 3`."""
    java = shutil.which("java")
    assert java is not None, "java is missing: apt-get install openjdk-17-jdk-headless"
    # A JRE has no compiler, which `java Consumer.java` needs.
    assert shutil.which("javac") is not None, "a JDK is missing: apt-get install openjdk-17-jdk-headless"
    servers = kafka.bootstrap_servers
    async with (
        pipeline_on(servers, prefix) as pipeline,
        FakeAgent("short", id="summarizer", confidence=0.9) as agent,
    ):
        await pipeline.register({"id": "summarizer", "endpoint": agent.endpoint, "limits": WIDE})
        worker = await pipeline.start()
        await pipeline.send("anomalies", [("summarizer", ANOMALY)])
        command = [java, "-Xmx256m", "-cp", f"{jars()}/*", str(EXAMPLE), servers, "summarizer", "3"]
        consumer = Process(command, {"PREFIX": prefix})
        try:
            await asyncio.to_thread(check, consumer, 3)
        finally:
            consumer.popen.kill()
            await stop(worker)
