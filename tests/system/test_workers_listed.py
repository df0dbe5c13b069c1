"""`parallax workers ls` on real Kafka: workers are found by their consumer group, without an address."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import httpx
import pytest

from streams import Client
from streams.testing import FakeAgent, hang
from tests.support.kafka import KafkaCluster
from tests.support.rig import ROOT, apply_topics, parallax, register, start_worker
from tests.support.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


async def test_all_workers_that_coordinate_plans_are_found_and_a_task_at_whichever_holds_it(
    kafka: KafkaCluster, prefix: str
) -> None:
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
        assert {row["web"] for row in await listed(servers, prefix, app, "--web", rows[1]["web"])} == {
            row["web"] for row in rows
        }
        async with FakeAgent(hang(), id="stuck") as agent, Client(servers, topic_prefix=prefix) as client:
            register(servers, prefix, {"id": "stuck", "endpoint": agent.endpoint})
            await client.submit("stuck", {}, id="s1", timeout="1h")
            await until(lambda: bool(agent.calls), 30)
            for row in rows:  # whichever holds it
                told = await said(servers, prefix, app, "explain", "s1", "--web", str(row["web"]))
                assert (told["status"], told["agentId"]) == ("calling", "stuck")
                async with httpx.AsyncClient(timeout=30) as http:
                    task = (await http.get(f"{row['web']}/api/v1/tasks/s1")).json()
                assert task["waiting"]["reason"] == "calling"
    finally:
        for worker in workers:
            await asyncio.to_thread(worker.stop)


async def listed(servers: str, prefix: str, app: str, *words: str) -> list[dict[str, Any]]:
    """The rows; none while nobody answers."""
    found: list[dict[str, Any]] = await said(servers, prefix, app, "workers", "ls", *words) or []
    return found


async def said(servers: str, prefix: str, app: str, *words: str) -> Any:
    """What a command prints, as JSON; None for nothing."""
    command = parallax(*words, "--bootstrap-servers", servers, "--topic-prefix", prefix, "-o", "json")
    environment = {"PATH": "/usr/bin:/bin", "PARALLAX_APP_ID": app, "PARALLAX_WEB_PORT": "1"}
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return json.loads(out) if out else None
