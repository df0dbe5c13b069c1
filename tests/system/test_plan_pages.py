"""A plan's page on real Kafka: a worker that comes back under its instance id at another address is found there."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from schemas.partitioning import owner_partition
from tests.support.kafka import KafkaCluster
from tests.support.plan_cases import step
from tests.support.plan_rig import agents, register_all, send_plans
from tests.support.rig import Process, apply_topics, start_worker, stopping
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NAMES = [f"p{number}" for number in range(12)]


def _worker(broker: str, prefix: str, name: str) -> tuple[Process, str]:
    options = ("--roles", "dispatch,plans", "--instance-id", name, "--session-timeout", "30s", "-o", "json")
    worker = start_worker(broker, prefix, *options, wait=False)
    return worker, json.loads(worker.line(90))["web"]


def _status(url: str, plan_id: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/plans/{plan_id}", timeout=20) as page:  # noqa: S310 - the worker's own address
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


def _partitions(url: str) -> set[int]:
    with urllib.request.urlopen(f"{url}/api/v1/partitions", timeout=20) as page:  # noqa: S310 - as above
        return {row["partition"] for row in json.load(page) if row["topic"].endswith("plans")}


def test_a_worker_that_came_back_at_another_address_is_asked_there(kafka: KafkaCluster, prefix: str) -> None:
    """It takes its partitions back without a new generation, so nobody is told its new address."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        first, here = _worker(broker, prefix, "one")
        with stopping(first):
            second, there = _worker(broker, prefix, "two")
            wait_until(lambda: len(_partitions(here)) == len(_partitions(there)) == 4, 90)
            theirs = [name for name in NAMES if owner_partition(name, 8) in _partitions(there)]
            assert 0 < len(theirs) < len(NAMES)
            hanging = [{"id": name, "tasks": [step("h", "hang")], "timeout": 120_000} for name in NAMES]
            send_plans(broker, prefix, hanging)
            wait_until(lambda: all(_status(url, name) == 200 for url in (here, there) for name in NAMES), 90)
            partitions = _partitions(there)
            second.kill()
            again, now_there = _worker(broker, prefix, "two")
            with stopping(again):
                assert now_there != there
                wait_until(lambda: _partitions(now_there) == partitions, 90)
                seen = set()

                def found() -> bool:
                    now = {_status(here, name) for name in theirs}
                    seen.update(now)
                    return now == {200}

                wait_until(found, 90)
                assert seen <= {200, 503}, "a plan under way was denied"
