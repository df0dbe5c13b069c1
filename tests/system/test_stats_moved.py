"""Statistics on real Kafka: a worker that comes back under its instance id at another address counts on, and is found there."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.points import fleet, produce
from tests.support.rig import Process, apply_topics, start_worker, stopping
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

AGENTS = 12


def _worker(broker: str, prefix: str, name: str) -> tuple[Process, str]:
    options = ("--roles", "stats", "--instance-id", name, "--session-timeout", "30s", "-o", "json")
    worker = start_worker(broker, prefix, *options, wait=False)
    return worker, json.loads(worker.line(90))["web"]


def _counted(url: str) -> list[int | None]:
    """What each agent's page says; None: not now."""
    found: list[int | None] = []
    for number in range(AGENTS):
        try:
            where = f"{url}/api/v1/agents/agent-{number}/stats"
            with urllib.request.urlopen(where, timeout=20) as page:  # noqa: S310 - the worker's own address
                found.append(json.load(page)["totalExecutions"])
        except urllib.error.HTTPError as error:
            found.append(None if error.code == 503 else -error.code)
    return found


def _until_counted(url: str, expected: list[int], timeout_s: float = 90.0) -> None:
    wait_until(lambda: _counted(url) == expected, timeout_s, lambda: _counted(url))


async def test_statistics_of_a_worker_that_came_back_at_another_address(kafka: KafkaCluster, prefix: str) -> None:
    """It is given the assignment of its old address; it starts all the same, and the others learn the new one."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    points = fleet(7, 1200, AGENTS, int(time.time() * 1000) - 30_000)
    await produce(broker, f"{prefix}data-points", points)
    expected = [sum(point["agentId"] == f"agent-{number}" for point in points) for number in range(AGENTS)]
    first, here = _worker(broker, prefix, "one")
    with stopping(first):
        second, there = _worker(broker, prefix, "two")
        _until_counted(here, expected)
        second.kill()
        again, now_there = _worker(broker, prefix, "two")
        with stopping(again):
            assert now_there != there
            _until_counted(now_there, expected)
            _until_counted(here, expected)
