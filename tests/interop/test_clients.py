"""Official clients where we serve: gRPC's against the gateway, the CloudEvents SDK on our records and as a writer of tasks."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from streams.broker.embedded import EmbeddedBroker
from tests.interop.environments import ROOM, ROOT, node_home
from tests.support.pipeline import Pipeline, pipeline_on, stop
from tests.support.points import read_all
from tests.support.rig import start_worker

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

PROTOS = ROOT / "schemas" / "proto"


@pytest.fixture
async def pipeline(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics of its own."""
    async with pipeline_on(embedded.bootstrap_servers, prefix, 2) as made:
        yield made


@contextmanager
def dialled(address: str) -> Iterator[Path]:
    """The agent on gRPC's client for JavaScript; its log."""
    log = ROOM / f"gateway-{address.rpartition(':')[2]}.log"
    command = ["node", str(node_home() / "gateway_agent.mjs"), address, str(PROTOS / "gateway.proto")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "PROTOS": str(PROTOS)},
        )  # fmt: skip
    try:
        yield log
    finally:
        process.kill()
        process.wait(10)
        log.unlink(missing_ok=True)


async def until_logged(log: Path, word: str) -> None:
    """Wait until the agent printed it."""
    for _ in range(300):
        if word in (text := await asyncio.to_thread(log.read_text, errors="replace")):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(text[-2000:])


def task(name: str, words: str) -> dict[str, Any]:
    """For the agent that dials in."""
    payload = {"task": words}
    return {"id": name, "type": "agent", "target": "javascript", "payload": payload, "metadata": {"retries": 0}}


async def test_an_agent_that_dials_in_with_the_official_grpc_client(pipeline: Pipeline) -> None:
    """It is called, fails, is told of a cancelled task, and is called again."""
    worker = start_worker(
        pipeline.bootstrap, pipeline.prefix, "--roles", "dispatch", "-o", "json", "--grpc-port", "0", wait=False
    )
    pipeline.workers.append(worker)
    address = orjson.loads(await asyncio.to_thread(worker.line, 90))["grpc"]
    with dialled(str(address).rpartition("/")[2]) as log:
        await until_logged(log, "ACK true")
        await pipeline.send("tasks", [(None, task("good", "ok")), (None, task("bad", "fail"))])
        ends = await pipeline.results(["good", "bad"])
        good, bad = ends["good"], ends["bad"]
        assert (good["result"], good["confidence"], good["metadata"]["answer"]) == ("yes", 0.93, {"why": "so"})
        assert (bad["status"], bad["error"]["code"]) == ("failure", "http_5xx")
        await pipeline.send("tasks", [(None, task("long", "slow 60"))])
        await until_logged(log, "ACT slow")
        await pipeline.send("controls", [("long", {"type": "cancel", "taskId": "long"})])
        assert (await pipeline.results(["long"]))["long"]["status"] == "cancelled"
        await until_logged(log, "CANCELLED")
    await stop(worker)


def cloud_events(*records: dict[str, Any]) -> list[dict[str, Any]]:
    """What the SDK makes of each."""
    lines = b"\n".join(orjson.dumps(record) for record in records)
    command = ["node", str(node_home() / "cloud_events.mjs")]
    done = subprocess.run(command, input=lines, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return [orjson.loads(line) for line in done.stdout.splitlines()]


async def test_the_cloudevents_sdk_reads_our_records_and_writes_our_tasks(pipeline: Pipeline) -> None:
    """Tasks in both modes; every record of results, events and data points is a valid event with the data we wrote."""
    async with FakeAgent(answer("yes")) as agent:
        await pipeline.register({"id": "a", "endpoint": agent.endpoint})
        worker = await pipeline.start()
        asked = [
            {"mode": mode, "write": {"id": mode, "source": "/me", "type": "mine", "data": data}}
            for mode in ("binary", "structured")
            for data in [{"id": mode, "type": "agent", "target": "a", "payload": {"n": mode}}]
        ]
        producer = AIOKafkaProducer(bootstrap_servers=pipeline.bootstrap)
        await producer.start()
        try:
            for made in await asyncio.to_thread(cloud_events, *asked):
                headers = [(name, str(value).encode()) for name, value in made["headers"].items()]
                await producer.send_and_wait(pipeline.prefix + "tasks", made["value"].encode(), headers=headers)
        finally:
            await producer.stop()
        assert {end["status"] for end in (await pipeline.results(["binary", "structured"])).values()} == {"success"}
        for topic in ("results", "events", "data-points"):
            records = await read_all(pipeline.bootstrap, pipeline.prefix + topic)
            assert len(records) >= 2
            given = [
                {
                    "key": record.key.decode(),
                    "value": record.value.decode(),
                    "headers": {name: value.decode() for name, value in record.headers},
                }
                for record in records
            ]
            for record, event in zip(records, await asyncio.to_thread(cloud_events, *given), strict=True):
                assert event["data"] == orjson.loads(record.value)
                assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
                assert event["source"].startswith("/parallax/")
                assert event["id"]
        await stop(worker)
