"""One small run of everything a worker does, and what its `/metrics` shows of it.

In: nothing. Out: the page and the partitions of a real worker with all roles on the embedded broker, after tasks that went well,
were retried, failed or came twice, plans, bad records and cached answers; all of them finished.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, NamedTuple

import orjson

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, status
from streams.broker.embedded import EmbeddedBroker
from tests.support.pipeline import WIDE, Pipeline, pipeline_on, stop
from tests.support.points import fleet
from tests.support.rig import start_worker
from tests.support.wait import until

BEHIND = re.compile(r"^parallax_consumer_lag_messages\{.*\} (?!0\.0$)", re.MULTILINE)
TASKS = 40
POINTS = 400


class Scraped(NamedTuple):
    """The page, and `/api/v1/partitions`."""

    page: str
    partitions: list[dict[str, Any]]


def scraped() -> Scraped:
    """Run it all; raises if it does not come to its end."""
    return asyncio.run(_run())


async def _run() -> Scraped:
    async with EmbeddedBroker() as broker, pipeline_on(broker.bootstrap_servers, "m.", 2) as pipeline:
        worker = start_worker(
            pipeline.bootstrap,
            pipeline.prefix,
            "--instance-id",
            "w1",
            "--session-timeout",
            "6s",
            "-o",
            "json",
            wait=False,
        )
        pipeline.workers.append(worker)
        pipeline.web = orjson.loads(await asyncio.to_thread(worker.line, 90))["web"]
        try:
            await _feed(pipeline)
            return await _quiet(pipeline)
        finally:
            await stop(worker)


async def _feed(pipeline: Pipeline) -> None:
    breaker = {"failureThreshold": 1, "resetTimeout": 2000, "monitoringPeriod": 60_000}
    async with FakeAgent([status(503, times=1), answer(confidence=0.9)]) as well, FakeAgent(status(500)) as sick:
        await pipeline.register(
            {"id": "well", "endpoint": well.endpoint, "limits": WIDE},
            {"id": "sick", "endpoint": sick.endpoint, "limits": WIDE, "breaker": breaker},
        )
        await pipeline.tasks(range(TASKS), ["well"])
        ids = {f"t{n}" for n in range(TASKS)}
        await pipeline.results(ids)
        task = {"type": "agent", "payload": {"n": 0}}
        records = [{"id": f"t{n}", "target": "well"} | task for n in range(3)]  # again
        records += [{"id": f"again{n}", "target": "well"} | task for n in range(3)]  # cached
        records += [{"id": f"sick{n}", "target": "sick", "metadata": {"expiresIn": 8000}} | task for n in range(4)]
        await pipeline.send("tasks", [*((None, record) for record in records), (None, {"id": 1})])
        step = {"type": "agent", "target": "well", "payload": {"n": 1}}
        plan = {"id": "p", "kind": "sequential", "tasks": [{"id": name} | step for name in ("a", "b")]}
        await pipeline.send("plans", [("p", plan), ("p", plan), (None, {"id": "q"})])
        now_ms = time.time_ns() // 1_000_000
        points = fleet(7, POINTS, 4, now_ms - 60_000)
        await pipeline.send("data-points", [*((None, point) for point in points), (None, {"agentId": "x"})])
        await pipeline.results(ids | {f"sick{n}" for n in range(4)} | {"again0"})
        await _planned(pipeline)


async def _planned(pipeline: Pipeline, timeout_s: float = 30.0) -> None:
    """Once the plans have ended."""

    async def both_ended() -> bool:
        return {found["planId"] for found in await pipeline.read("plan-results")} == {"p", "q"}

    await until(both_ended, timeout_s, lambda: "the plans did not end")


async def _quiet(pipeline: Pipeline, timeout_s: float = 40.0) -> Scraped:
    """Once nothing is left to be done and every partition of every role is told of."""
    partitions: list[dict[str, Any]] = []

    async def quiet() -> Scraped | None:
        _, partitions[:] = await pipeline.get("/api/v1/partitions")
        told = {row["topic"] for row in partitions}
        if len(told) == 8 and all(row["lag"] == 0 and not row["inFlight"] for row in partitions):
            _, page = await pipeline.get("/metrics")
            if not BEHIND.search(page):  # the last data points may come between the two
                return Scraped(page, partitions)
        return None

    found: Scraped = await until(quiet, timeout_s, lambda: partitions)
    return found
