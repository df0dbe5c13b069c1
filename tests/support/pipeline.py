"""The topics of one test, and workers that serve them as processes.

In: a broker's address and a prefix. Out: ways to write tasks and registrations and to read what came of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer

from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.points import read_all
from tests.support.rig import Process, start_worker
from tests.support.wait import until

WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}


async def results_of(bootstrap: str, prefix: str, ids: Iterable[str], timeout_s: float = 60.0) -> list[dict[str, Any]]:
    """All results that lie on the topic, once there is one of each of these tasks."""
    missing, rows = set(ids), list[dict[str, Any]]()

    async def all_there() -> bool:
        rows[:] = [orjson.loads(record.value) for record in await read_all(bootstrap, f"{prefix}results")]
        missing.difference_update(row["taskId"] for row in rows)
        return not missing

    await until(all_there, timeout_s, lambda: f"no result: {sorted(missing)[:5]}")
    return rows


class Pipeline:
    """The topics of one test and the worker that serves them."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.settings = Settings(bootstrap_servers=self.bootstrap, topic_prefix=prefix)
        self.web = ""
        self.workers: list[Process] = []

    async def start(self) -> Process:
        """A worker under a fixed instance name, so that the next one takes over at once."""
        options = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s", "-o", "json")
        worker = start_worker(self.bootstrap, self.prefix, *options, wait=False)
        self.workers.append(worker)
        line = await asyncio.to_thread(worker.line, 90)
        self.web = orjson.loads(line)["web"]
        return worker

    async def send(self, topic: str, records: Iterable[tuple[str | None, Any]]) -> None:
        """Write JSON values under keys; None is a tombstone."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            for key, value in records:
                raw = None if value is None else orjson.dumps(value)
                await producer.send(self.prefix + topic, raw, key=None if key is None else key.encode())
            await producer.flush()
        finally:
            await producer.stop()

    async def register(self, *agents: dict[str, Any]) -> None:
        """Write registrations as any client would."""
        await self.send("agents", [(agent["id"], agent) for agent in agents])

    async def tasks(self, numbers: Iterable[int], agents: list[str], **fields: Any) -> None:
        """Plain tasks `t<n>`, by turns for these agents."""
        records = [
            {"id": f"t{n}", "type": "agent", "target": agents[n % len(agents)], "payload": {"n": n}} | fields
            for n in numbers
        ]
        await self.send("tasks", [(None, record) for record in records])

    async def read(self, topic: str) -> list[dict[str, Any]]:
        """What lies on a topic."""
        return [orjson.loads(record.value) for record in await read_all(self.bootstrap, self.prefix + topic)]

    async def results(self, ids: Iterable[str], timeout_s: float = 60.0) -> dict[str, dict[str, Any]]:
        """Wait until each of these tasks has a result."""
        return {result["taskId"]: result for result in await results_of(self.bootstrap, self.prefix, ids, timeout_s)}

    async def get(self, path: str) -> tuple[int, Any]:
        """A page of the worker: status, and JSON or text."""
        async with aiohttp.ClientSession() as session, session.get(self.web + path) as response:
            raw = await response.read()
            return response.status, orjson.loads(raw) if response.content_type == "application/json" else raw.decode()


@asynccontextmanager
async def pipeline_on(bootstrap: str, prefix: str, partitions: int = 4) -> AsyncIterator[Pipeline]:
    """Topics with so many partitions; workers that a failed test left behind are killed."""
    made = Pipeline(bootstrap, prefix)
    await apply(made.settings, partitions)
    try:
        yield made
    finally:
        for worker in made.workers:
            if worker.popen.poll() is None:
                worker.kill()


async def stop(worker: Process) -> None:
    """End it kindly; it must go well. Not in this thread: the agents answer here while it drains."""
    assert await asyncio.to_thread(worker.stop) == 0
