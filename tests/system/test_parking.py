"""Parked tasks on real Kafka: an agent is down, its tasks wait on a topic, a worker dies meanwhile, the agent heals."""

from __future__ import annotations

import json
from collections import Counter

import httpx
import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import (
    Tap,
    apply_topics,
    fake_agent,
    instant_agent,
    produce,
    register,
    start_worker,
    stopping,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}
BREAKER = {"failureThreshold": 3, "resetTimeout": 4000, "monitoringPeriod": 60_000}
OPTIONS = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")


def task(number: int, agent: str) -> bytes:
    metadata = {"timeout": 120_000, "retries": 50}
    return json.dumps(
        {"id": f"{agent}-{number}", "type": "agent", "target": agent, "payload": {"n": number}, "metadata": metadata}
    ).encode()


def heal(endpoint: str) -> None:
    """The scripted agent answers from now on."""
    assert httpx.post(f"{endpoint}/script", json=["answer:confidence=0.9"], timeout=10).is_success


def test_tasks_of_an_agent_that_is_down_wait_and_are_answered_once(kafka: KafkaCluster, prefix: str) -> None:
    """300 parked tasks survive a SIGKILL and are answered once each when the agent is back; a well agent never waits."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with fake_agent("--behaviour", "status:code=503") as sick, instant_agent() as (_, well):
        register(
            broker,
            prefix,
            {"id": "sick", "endpoint": sick, "limits": WIDE, "breaker": BREAKER},
            {"id": "well", "endpoint": well, "limits": WIDE},
        )
        worker = start_worker(broker, prefix, *OPTIONS)
        produce(broker, f"{prefix}tasks", ((None, task(n, "sick")) for n in range(300)))
        parked = Tap(broker, f"{prefix}parked")
        assert len({json.loads(m.value())["id"] for m in parked.until(300, 30)}) > 250
        parked.close()
        produce(broker, f"{prefix}tasks", ((None, task(n, "well")) for n in range(300)))
        results = Tap(broker, f"{prefix}results")
        seen = results.until(300, 30)
        assert {json.loads(m.value())["agentId"] for m in seen} == {"well"}
        worker.kill()
        heal(sick)
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            seen += results.until(300, 60, quiet_s=3)
        results.close()
    found = [json.loads(message.value()) for message in seen]
    ids = Counter(result["taskId"] for result in found)
    assert len(ids) == 600
    assert set(ids.values()) == {1}
    assert {result["status"] for result in found} == {"success"}
