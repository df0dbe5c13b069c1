"""An agent behind a Kafka topic, on real Kafka: the worker is killed with requests under way, and every task has one result."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import orjson
import pytest

from agents_io.fakes.kafka import FakeKafkaAgent
from agents_io.fakes.steps import compute
from streams.broker.topics_admin import ensure
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster
from tests.support.points import until
from tests.support.rig import Process, Tap, apply_topics, produce, register, start_worker, stopping

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
TASKS = 120
AT_ONCE = 12
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": AT_ONCE}


def worker_of(correlation: str) -> str:
    """Which run of a worker asked: the part before the request's number."""
    return correlation.partition(":")[0]


class Slow(FakeKafkaAgent):
    """Says in each answer which request it answers. While `holding`, it keeps the answers to the first worker's requests back
    until another worker has asked, and so waits for answers on the same topic.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, compute(lambda payload: {"value": payload, "confidence": 1}, delay_s=0.1))
        self.holding = False
        self.another = asyncio.Event()
        self.replied: list[tuple[str, bool]] = []
        """Correlation ids, and whether the reply came too late."""

    async def reply_to(self, request: dict[str, str], value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """As said above."""
        correlation = request["correlation-id"]
        first = worker_of(self.calls[0].headers["correlation-id"])
        late = self.holding and worker_of(correlation) == first
        if late:
            await self.another.wait()
        elif self.holding:
            self.another.set()
        answer = orjson.loads(value)
        answer["value"]["answers"] = correlation
        await super().reply_to(request, orjson.dumps(answer), headers)
        self.replied.append((correlation, late))


async def test_every_task_of_a_kafka_agent_has_one_result_though_its_worker_is_killed(
    kafka: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """What the dead worker asked for is answered late, on the topic its successor reads: nobody takes it for an answer."""
    broker, topic = kafka.bootstrap_servers, f"{prefix}requests"
    await asyncio.to_thread(apply_topics, broker, prefix)
    await ensure(settings_for(kafka), topic, 3, {})
    agent_of_topic = {"id": "slow", "endpoint": f"kafka://{topic}", "limits": LIMITS}
    await asyncio.to_thread(register, broker, prefix, agent_of_topic)
    fresh = {"type": "agent", "target": "slow", "metadata": {"cache": False, "timeout": 90_000}}
    tasks = [{"id": f"t{n}", "payload": {"n": n}} | fresh for n in range(TASKS)]
    results = Tap(broker, f"{prefix}results")
    async with Slow(broker, topic) as agent:
        victim = await asyncio.to_thread(worker, broker, prefix)
        await asyncio.to_thread(
            produce, broker, f"{prefix}tasks", [(None, json.dumps(task).encode()) for task in tasks]
        )
        await until(lambda: len(agent.replied) >= TASKS // 4, 60)
        agent.holding = True
        await until(lambda: agent.in_flight >= AT_ONCE // 2, 30)
        await asyncio.sleep(0.5)
        assert len(agent.replied) < TASKS, "all was done before the worker was killed"
        await asyncio.to_thread(victim.kill)
        with stopping(await asyncio.to_thread(worker, broker, prefix)):
            found = await asyncio.to_thread(results.until, TASKS, 90, 3)
    results.close()
    ended = [json.loads(message.value()) for message in found]
    assert Counter(result["taskId"] for result in ended) == {task["id"]: 1 for task in tasks}
    assert {result["status"] for result in ended} == {"success"}, [r for r in ended if r["status"] != "success"][:3]
    late = {correlation for correlation, too_late in agent.replied if too_late}
    assert len(late) >= AT_ONCE // 2, "no request was under way when the worker was killed"
    asked: dict[str, list[str]] = {}
    for call in agent.calls:
        asked.setdefault(call.key, []).append(call.headers["correlation-id"])
    assert {worker_of(ids[-1]) for ids in asked.values() if set(ids) & late}.isdisjoint(map(worker_of, late))
    for result in ended:
        task_id, value = result["taskId"], result["result"]
        assert (f"t{value['n']}", value["answers"]) == (task_id, asked[task_id][-1])
    assert len(agent.calls) < TASKS + 4 * AT_ONCE, "what the dead worker had finished is done again"


def worker(broker: str, prefix: str) -> Process:
    """Under one name, so that the next one takes over at once."""
    return start_worker(broker, prefix, "--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")
