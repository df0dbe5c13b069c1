"""`parallax workers ls` on real Kafka: workers are found by their consumer group, without an address."""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import ROOT, apply_topics, parallax, start_worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


async def test_all_workers_that_coordinate_plans_are_found(kafka: KafkaCluster, prefix: str) -> None:
    """Each once, with its name and its share of the partitions; also with no more than one address."""
    servers, app = kafka.bootstrap_servers, prefix.rstrip(".")
    apply_topics(servers, prefix)
    workers = [
        start_worker(servers, prefix, "--roles", "dispatch,plans", "--instance-id", name) for name in ("w1", "w2")
    ]
    try:
        async with asyncio.timeout(60):
            while True:  # until the second has its share
                rows = await listed(servers, prefix, app)
                if len(rows) == 2 and all(row["ready"] and row["partitions"]["plans"] for row in rows):
                    break
        assert [row["instanceId"] for row in rows] == ["w1", "w2"]
        owned = [number for row in rows for number in row["partitions"]["dispatch"]]
        assert sorted(owned) == list(range(8))
        assert await listed(servers, prefix, app, "--web", rows[1]["web"]) == rows
    finally:
        for worker in workers:
            await asyncio.to_thread(worker.stop)


async def listed(servers: str, prefix: str, app: str, *words: str) -> list[dict[str, object]]:
    """The rows; none while nobody answers."""
    command = parallax("workers", "ls", "--bootstrap-servers", servers, "--topic-prefix", prefix, "-o", "json", *words)
    environment = {"PATH": "/usr/bin:/bin", "PARALLAX_APP_ID": app, "PARALLAX_WEB_PORT": "1"}
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    found: list[dict[str, object]] = json.loads(out) if out else []
    return found
