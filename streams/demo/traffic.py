"""The demo's two Kafka clients, as a user would write them: one sends tasks, one reads what follows.

In: rows. Out: plain JSON records on `tasks`; decoded records of the topics asked for. Only topic names and JSON are
used here, nothing else of the pipeline.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.topics import full_name
from streams.broker.kafka import client_options, start
from streams.broker.topic_feed import TopicFeed
from streams.demo.board import task_id
from streams.demo.models import Row
from streams.settings import Settings

Read = Callable[[], Awaitable[list[tuple[str, dict[str, Any]]]]]
TICK_S = 0.05


def tasks(
    run: str, rows: Sequence[Row], agent_ids: Sequence[str], rounds: Iterable[int], timeout_ms: int
) -> Iterator[dict[str, Any]]:
    """Every row to every agent, once per round, each time in another order. The label is not sent.

    The cache is off: each task is to be answered by its agent, also if two sites look alike. Retries are off too (two
    by default): with them the results would hardly show that the agent broke.
    """
    order = list(range(len(rows)))
    for number in rounds:
        random.Random(number).shuffle(order)
        for row in order:
            for agent_id in agent_ids:
                yield {
                    "id": task_id(run, number, row, agent_id),
                    "type": "agent",
                    "target": agent_id,
                    "payload": {"task": "is this site phishing?", "data": rows[row][0]},
                    "metadata": {"timeout": timeout_ms, "retries": 0, "cache": False},
                }


async def send(
    settings: Settings,
    stream: Iterator[dict[str, Any]],
    rate: float,
    sent: Callable[[int], Awaitable[None]],
) -> None:
    """Send `rate` tasks a second, keyed by agent; `sent` is called with the number acknowledged so far."""
    producer = AIOKafkaProducer(**client_options(settings), acks="all")
    topic = full_name("tasks", settings.topic_prefix)
    clock = asyncio.get_running_loop().time
    await start(producer)
    try:
        begun, count, more = clock(), 0, True
        while more:
            due = int((clock() - begun + TICK_S) * rate)
            batch = []
            while count < due and (task := next(stream, None)) is not None:
                record = json.dumps(task).encode()
                batch.append(await producer.send(topic, value=record, key=task["target"].encode()))
                count += 1
            more = count >= due
            await asyncio.gather(*batch)
            await sent(count)
            await asyncio.sleep(TICK_S if more else 0)
    finally:
        await producer.stop()


@asynccontextmanager
async def subscribed(settings: Settings, names: Sequence[str], *, from_beginning: bool) -> AsyncIterator[Read]:
    """A reader of several topics: each call returns new records as (short name, value), often none."""
    short = {full_name(name, settings.topic_prefix): name for name in names}
    async with TopicFeed(settings, *names, since_ms=0 if from_beginning else None) as feed:

        async def read() -> list[tuple[str, dict[str, Any]]]:
            return [(short[record.topic], json.loads(record.value)) for record in await feed.read() if record.value]

        yield read
