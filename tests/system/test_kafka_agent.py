"""An agent behind a Kafka topic, on real Kafka: the worker is killed with requests under way, and every task has one result."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import orjson
import pytest

from agents_io.fakes.steps import compute
from agents_io.protocols.kafka.fake import FakeKafkaAgent
from streams.broker.topics_admin import ensure
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, Tap, apply_topics, produce, register, start_worker, stopping
from tests.support.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
TASKS = 120
AT_ONCE = 12
KEPT = 6
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": AT_ONCE}


def worker_of(correlation: str) -> str:
    """Which run of a worker asked: the part before the request's number."""
    return correlation.partition(":")[0]


class Slow(FakeKafkaAgent):
    """Says in each answer which request it answers, and keeps those to the first requests of all back until another worker asks.

    They come before any answer to that one then, on the same topic, and under numbers that it uses itself just now.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, compute(lambda payload: {"value": payload, "confidence": 1}, delay_s=0.1))
        self.answered: list[str] = []
        self.late: list[str] = []
        self._another = asyncio.Event()
        self._all_sent = asyncio.Event()

    async def reply_to(self, request: dict[str, str], value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """As said above."""
        correlation = request["correlation-id"]
        by_first = worker_of(correlation) == worker_of(self.calls[0].headers["correlation-id"])
        kept = by_first and int(correlation.partition(":")[2]) <= KEPT
        if kept:
            await self._another.wait()
        elif not by_first:
            self._another.set()
            await self._all_sent.wait()
        answer = orjson.loads(value)
        answer["value"]["answers"] = correlation
        await super().reply_to(request, orjson.dumps(answer), headers)
        (self.late if kept else self.answered).append(correlation)
        if len(self.late) == KEPT:
            self._all_sent.set()


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
        await until(lambda: len(agent.answered) >= TASKS // 4, 60)
        await asyncio.to_thread(victim.kill)
        assert agent.late == []
        with stopping(await asyncio.to_thread(worker, broker, prefix)):
            found = await asyncio.to_thread(results.until, TASKS, 90, 3)
    results.close()
    ended = [json.loads(message.value()) for message in found]
    assert Counter(result["taskId"] for result in ended) == {task["id"]: 1 for task in tasks}
    assert {result["status"] for result in ended} == {"success"}, [r for r in ended if r["status"] != "success"][:3]
    assert len(agent.late) == KEPT, "no request was under way when the worker was killed"
    asked: dict[str, list[str]] = {}
    for call in agent.calls:
        asked.setdefault(call.key, []).append(call.headers["correlation-id"])
    again = [ids for ids in asked.values() if ids[0] in agent.late]
    assert [worker_of(ids[0]) == worker_of(ids[-1]) for ids in again] == [False] * KEPT
    for result in ended:
        task_id, value = result["taskId"], result["result"]
        assert (f"t{value['n']}", value["answers"]) == (task_id, asked[task_id][-1])
    assert len(agent.calls) < TASKS + 4 * AT_ONCE, "what the dead worker had finished is done again"


def worker(broker: str, prefix: str) -> Process:
    """Under one name, so that the next one takes over at once."""
    return start_worker(broker, prefix, "--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s")
