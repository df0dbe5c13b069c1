"""Statistics beside dispatch: a process of their own, that answers through the worker, comes back, and goes with it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from streams.broker.embedded import EmbeddedBroker
from streams.broker.processes import tied_to_parent
from streams.broker.topics_admin import apply
from streams.settings import Settings
from streams.statistics import child
from tests.support.points import fleet, produce
from tests.support.rig import alive, family, parallax
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

POINTS = 400


class Running:
    """`parallax worker` with dispatch and statistics."""

    def __init__(self, process: asyncio.subprocess.Process, web: str) -> None:
        self.process = process
        self.http = httpx.AsyncClient(base_url=web, timeout=20)

    def children(self) -> list[int]:
        """Pids of the processes it started and that run."""
        return family(self.process.pid)[1:]

    async def total(self, agent: str) -> tuple[int, Any]:
        """Status, and executions or the error."""
        answer = await self.http.get(f"/api/v1/agents/{agent}/stats")
        return answer.status_code, answer.json().get("totalExecutions", answer.json().get("error"))


@asynccontextmanager
async def worker(embedded: EmbeddedBroker, prefix: str, *options: str) -> AsyncIterator[Running]:
    """One that is ready."""
    command = parallax(
        "worker", "--bootstrap-servers", embedded.bootstrap_servers, "--topic-prefix", prefix, "--roles", "dispatch,stats",
        "--app-id", prefix.rstrip("."), "--instance-id", "w1", "--web-port", "0", "--grpc-port", "0", "-o", "json", *options,
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(*tied_to_parent(command), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            addresses = orjson.loads(await process.stdout.readline())
        running = Running(process, addresses["web"])
        async with running.http:
            yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 60)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def listens(pid: int) -> list[int]:
    """TCP ports of IPv4 that a process listens on."""
    sockets = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def expected(points: list[dict[str, Any]], agent: str) -> int:
    return sum(1 for point in points if point["agentId"] == agent)


async def test_questions_metrics_and_places_come_through_the_worker(embedded: EmbeddedBroker, prefix: str) -> None:
    """And a process that is killed is another one a moment later, which knows what the first one knew."""
    settings = Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix)
    await apply(settings, 4)
    points = fleet(7, POINTS, 3, int(time.time() * 1000) - 30_000)
    await produce(embedded.bootstrap_servers, f"{prefix}data-points", points)
    async with worker(embedded, prefix) as running:
        [pid] = running.children()
        assert "streams.statistics.process" in command_line(pid)

        async def counted() -> bool:
            return await running.total("agent-0") == (200, expected(points, "agent-0"))

        await until(counted, 60)
        compared = (await running.http.get("/api/v1/compare", params={"agents": "agent-1,agent-2, no one"})).json()
        assert [row["totalExecutions"] for row in compared] == [expected(points, f"agent-{n}") for n in (1, 2)] + [0]
        assert await running.total("nobody") == (404, "agent 'nobody' has no execution in that range")
        refused = await running.http.get("/api/v1/agents/agent-0/stats?from=never")
        assert (refused.status_code, "from" in refused.json()["error"]) == (400, True)

        async def shown() -> bool:
            page = (await running.http.get("/metrics")).text
            places = (await running.http.get("/api/v1/partitions")).json()
            read = [row for row in places if row["topic"] == f"{prefix}data-points"]
            return {
                "points": f"parallax_stats_points_total {float(POINTS)}" in page,
                "memory": "parallax_stats_process_resident_memory_bytes " in page,
                "role": 'parallax_role_ready{role="stats"} 1.0' in page,
                "alarms": "parallax_anomalies_total{type=" in page,
                "places": sum(row["committable"] for row in read),
            } == {"points": True, "memory": True, "role": True, "alarms": True, "places": POINTS}

        await until(shown, 60)
        os.kill(pid, signal.SIGKILL)

        async def another() -> bool:
            checks = (await running.http.get("/readyz")).json()["checks"]
            return running.children() not in ([], [pid]) and checks["stats"] and await counted()

        await until(another, 90)
        [pid] = running.children()
    assert running.process.returncode == 0
    assert not alive(pid)


async def test_counters_stay_while_the_process_does_not_answer(
    embedded: EmbeddedBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus would take 0 for a new beginning, and what comes after it for new points."""
    monkeypatch.setattr(child, "ASK_TIMEOUT_S", 0.5)
    settings = Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix)
    await apply(settings, 4)
    await produce(embedded.bootstrap_servers, f"{prefix}data-points", fleet(7, 50, 3, int(time.time() * 1000) - 30_000))
    statistics = child.StatsProcess(settings, idempotent=False)

    def points() -> int:
        return int((statistics.counters() or {}).get("points", 0))

    async def counted() -> bool:
        return statistics.ready and points() == 50

    async def stuck() -> bool:
        return not statistics.ready

    await statistics.start()
    try:
        await until(counted, 60)
        assert statistics.pid is not None
        os.kill(statistics.pid, signal.SIGSTOP)
        try:
            await until(stuck, 20)
            assert points() == 50
        finally:
            os.kill(statistics.pid, signal.SIGCONT)
        await until(counted, 20)
    finally:
        await statistics.stop()


async def test_it_ends_with_a_worker_that_is_killed(embedded: EmbeddedBroker, prefix: str) -> None:
    """Nothing is left behind that would hold partitions."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    async with worker(embedded, prefix) as running:
        [pid] = running.children()
        running.process.kill()

        async def gone() -> bool:
            return not alive(pid)

        await until(gone, 20)


async def test_nobody_but_the_worker_is_answered(embedded: EmbeddedBroker, prefix: str) -> None:
    """The process listens on a port of 127.0.0.1 that anybody on this machine can reach."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    async with worker(embedded, prefix) as running:
        [pid] = running.children()
        [port] = listens(pid)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            for path in ("/internal/status", "/api/v1/agents/agent-0/stats", "/internal/v2/stats"):
                assert (await http.get(path)).status_code == 403, path
                assert (await http.get(path, headers={"X-Parallax-Parent": "guess"})).status_code == 403


async def test_what_keeps_statistics_from_starting_keeps_the_worker_from_starting(
    embedded: EmbeddedBroker, prefix: str
) -> None:
    """In one line, with its exit code, as where they have no process of their own."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    command = parallax(
        "worker", "--bootstrap-servers", embedded.bootstrap_servers, "--topic-prefix", prefix, "--web-port", "0",
        "--grpc-port", "0", "--roles", "dispatch,stats",
    )  # fmt: skip
    for own in ("true", "false"):
        process = await asyncio.create_subprocess_exec(
            *tied_to_parent(command),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ
            | {"PARALLAX_STATS__DETECTORS": '{"x": "no.such.Detector"}', "PARALLAX_STATS__OWN_PROCESS": own},
        )
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode not in (0, None)
        assert b"no.such" in said, own
