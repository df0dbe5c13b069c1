"""What the limits promise, over the call logs of agents and all that was written: P6 to P11, P13, P15, and failover."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from agents_io.calling.rules.breaker import BreakerConfig
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep, answer, deep, empty, garbage, hang, html, nan, status
from schemas.topics import TOPICS, dead_letter_topics, full_name
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support import predicates
from tests.support.breaker_log import breaker
from tests.support.pipeline import results_of
from tests.support.points import read_all
from tests.support.predicates import Call, read_call
from tests.support.rig import Process, start_worker
from tests.support.strictness import no_secret, retry_share, strict
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(240)]
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 5}
NEVER = {"failureThreshold": 1000}
SECRET = "canary-3f1c9b77e0"
SHARE, FLOOR = 0.2, 3
ENV = {
    "PARALLAX_RETRY__INITIAL_DELAY": "50ms",
    "PARALLAX_RETRY__BUDGET_SHARE": str(SHARE),
    "PARALLAX_RETRY__BUDGET_FLOOR": str(FLOOR),
    "PARALLAX_HEALTH__CHECK_INTERVAL": "300ms",
    "PARALLAX_HEALTH__EJECT_AFTER": "0",
    "AGENT_TOKEN": SECRET,
}


class Run:
    """A worker on topics of its own, its log, and what was sent."""

    def __init__(self, broker: EmbeddedBroker, prefix: str, log: Path) -> None:
        self.bootstrap = broker.bootstrap_servers
        self.prefix = prefix
        self.log = log
        self.web = ""
        self.sent: dict[str, tuple[float, dict[str, Any]]] = {}
        """When each task was sent, and its metadata."""
        self.worker: Process | None = None

    async def start(self) -> None:
        """Topics, then the worker."""
        await apply(Settings(bootstrap_servers=self.bootstrap, topic_prefix=self.prefix), 4)
        options = ("--roles", "dispatch", "--session-timeout", "6s", "-o", "json")
        self.worker = start_worker(self.bootstrap, self.prefix, *options, env=ENV, wait=False)
        self.web = orjson.loads(await asyncio.to_thread(self.worker.line, 90))["web"]

    async def send(self, topic: str, records: Iterable[dict[str, Any]]) -> None:
        """JSON values keyed by id."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            for record in records:
                await producer.send(self.prefix + topic, orjson.dumps(record), key=record["id"].encode())
                if topic == "tasks":
                    self.sent[record["id"]] = (time.time(), record["metadata"])
            await producer.flush()
        finally:
            await producer.stop()

    async def results(self, ids: Iterable[str], timeout_s: float = 60.0) -> dict[str, dict[str, Any]]:
        """Wait until each has its result; there is one of each."""
        rows = await results_of(self.bootstrap, self.prefix, ids, timeout_s)
        found = {row["taskId"]: row for row in rows}
        assert len(found) == len(rows), "one result per task"
        return found

    async def events(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a type, and their times."""
        rows = [orjson.loads(record.value) for record in await read_all(self.bootstrap, self.prefix + "events")]
        return [row["data"] | {"at": row["timestamp"]} for row in rows if row["type"] == kind]

    async def agent_statuses(self) -> dict[str, Any]:
        """How the worker's balancer knows the agents to stand."""
        return {row["id"]: row.get("standing", {}) for row in orjson.loads(await self.get("/api/v1/agents"))}

    async def is_well(self, agent_id: str) -> bool:
        """Whether the worker takes the agent for healthy."""
        return (await self.agent_statuses()).get(agent_id, {}).get("healthy") is True

    async def is_unwell(self, agent_id: str) -> bool:
        """Whether it knows that it is not."""
        return (await self.agent_statuses()).get(agent_id, {}).get("healthy") is False

    async def get(self, path: str) -> bytes:
        """A page of the worker."""
        async with aiohttp.ClientSession() as session, session.get(self.web + path) as response:
            return await response.read()


@pytest.fixture
async def run(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Run]:
    """Killed at the end if the test did not stop it."""
    log = tmp_path / "worker.log"
    monkeypatch.setenv("TEST_WORKER_LOG", str(log))
    made = Run(embedded, prefix, log)
    yield made
    if made.worker is not None and made.worker.popen.poll() is None:
        made.worker.kill()


TIMEOUT_MS, RUSHED_MS, EXPIRES_MS = 10_000, 1500, 40_000
RESET_S = 3.0


def task(name: str, n: int, **metadata: Any) -> dict[str, Any]:
    """Task `<name>-<n>` for that agent; two attempts in all."""
    metadata = {"timeout": TIMEOUT_MS, "expiresIn": EXPIRES_MS, "retries": 1, "cache": False} | metadata
    return {"id": f"{name}-{n}", "type": "agent", "target": name, "payload": {"n": n}, "metadata": metadata}


def calls_of(name: str, agent: FakeAgent, timeout_ms: int) -> list[Call]:
    """An agent's log, by begin. An attempt that was granted less than the timeout was cut short by its task's deadline."""
    fair_s = timeout_ms / 1000 - 0.1
    return sorted((read_call(name, got, fair_s=fair_s) for got in list(agent.calls)), key=lambda call: call.at)


BAD: list[ScriptStep] = [nan(times=1), html(times=1), empty(times=1), garbage(times=1), deep(times=1)]
BAD += [answer(confidence=2, times=1), answer(confidence="0.5", times=1), answer(confidence=None, times=1)]


async def test_limits_hold_over_the_call_logs(run: Run) -> None:
    """Six agents in six kinds of trouble at once, one worker; every predicate, and proof that each trouble was felt."""
    flips = [step for _ in range(60) for step in (status(503, times=1), answer(times=1))]
    async with (
        FakeAgent(status(503)) as ill,
        FakeAgent() as full,
        FakeAgent([status(429, retry_after="2", times=2), answer()]) as busy,
        FakeAgent(flips) as flaky,
        FakeAgent([*BAD, answer(confidence=0.25)]) as odd,
        FakeAgent(hang()) as slow,
    ):
        agents = {"ill": ill, "full": full, "busy": busy, "flaky": flaky, "odd": odd, "slow": slow}
        own: dict[str, dict[str, Any]] = {
            "ill": {"breaker": {"resetTimeout": int(RESET_S * 1000)}},
            "full": {"limits": {"maxRequests": 10, "windowMs": 3000, "maxConcurrency": 10}},
            "busy": {"auth": {"env": "AGENT_TOKEN"}},
        }
        await run.start()
        await run.send(
            "agents",
            (
                {"id": name, "endpoint": agent.endpoint, "limits": WIDE, "breaker": NEVER} | own.get(name, {})
                for name, agent in agents.items()
            ),
        )
        await run.send("tasks", (task("full", n) for n in range(35)))
        await run.send("tasks", (task("flaky", n, expiresIn=12_000) for n in range(40)))
        await run.send("tasks", (task("odd", n, retries=0) for n in range(12)))
        await run.send("tasks", (task("busy", n) for n in range(6)))
        await run.send("tasks", (task("slow", n, timeout=RUSHED_MS) for n in range(5)))
        healed = 0.0
        for n in range(110):
            await run.send("tasks", [task("ill", n)])
            await asyncio.sleep(0.1)
            if n == 45:
                ill.script(answer())
                healed = time.time()
        results = await run.results(run.sent)
        changes = [
            (_epoch(data["at"]), kind)
            for kind in ("circuit:open", "circuit:close")
            for data in await run.events(kind)
            if data["agentId"] == "ill"
        ]
        page, listed = await run.get("/metrics"), await run.get("/api/v1/agents")
        assert run.worker is not None
        assert await asyncio.to_thread(run.worker.stop) == 0
        calls = {
            name: calls_of(name, agent, RUSHED_MS if name == "slow" else TIMEOUT_MS) for name, agent in agents.items()
        }

    config = BreakerConfig(reset_timeout_s=RESET_S, probe_lease_s=35.0)
    opened = [at for at, kind in changes if kind == "circuit:open"]
    circuit, trips = breaker(calls["ill"], config, (), opened, jitter_s=1.5)
    everything = [call for found in calls.values() for call in found]
    free = predicates.without_attempt(everything, {"ill": predicates.half_open(changes, RESET_S)}, jitter_s=1.0)
    attempts = {name: metadata["retries"] + 1 for name, (_, metadata) in run.sent.items()}
    timeouts = {name: metadata["timeout"] / 1000 for name, (_, metadata) in run.sent.items()}
    deadlines = {name: at + metadata["expiresIn"] / 1000 for name, (at, metadata) in run.sent.items()}
    places = {"log": run.log.read_bytes(), "metrics": page, "agents page": listed}
    for topic in (*(topic.name for topic in TOPICS), *dead_letter_topics()):
        if topic == "plan-results" or topic.startswith("dlq."):
            continue
        records = await read_all(run.bootstrap, full_name(topic, run.prefix))
        places[topic] = b"\n".join(
            (record.key or b"") + (record.value or b"") + repr(record.headers).encode() for record in records
        )
    verdicts = [
        predicates.calls_per_task(everything, attempts, {}, free),
        predicates.one_key(everything, {}),
        circuit,
        predicates.served_again(calls["ill"], healed, RESET_S + 8.0),
        predicates.rate(calls["full"], 10, 3.0, jitter_s=1.0),
        predicates.pauses(calls["busy"], 2.0, jitter_s=0.5),
        predicates.deadlines(everything, deadlines, timeouts, slack_s=2.0),
        predicates.ended_in_time(
            {name: _epoch(row["timestamp"]) for name, row in results.items()}, deadlines, slack_s=2.0
        ),
        retry_share(calls["flaky"], SHARE, FLOOR),
        no_secret([SECRET.encode()], places),
        strict(results.values()),
        predicates.one_result(run.sent, list(results)),
    ]
    assert [verdict.line() for verdict in verdicts if not verdict.held] == []
    # Felt: each trouble left its mark.
    codes = {
        name: {(results[t].get("error") or {}).get("code") for t in run.sent if t.startswith(name)} for name in agents
    }
    assert trips >= 1
    assert len(calls["full"]) == 35
    assert calls["full"][-1].at - calls["full"][0].at >= 8.5, "the window was waited for three times"
    assert {call.code for call in calls["busy"]} == {429, 200}
    assert any(received.headers.get("Authorization") == f"Bearer {SECRET}" for received in busy.calls)
    assert codes["slow"] == {"timeout"}
    assert codes["odd"] == {"bad_response", None}
    again = len(calls["flaky"]) - len({call.task for call in calls["flaky"]})
    assert FLOOR <= again < sum(call.code == 503 for call in calls["flaky"]), "the budget was used up"
    assert codes["flaky"] == {None, "expired", "http_5xx"}
    out_of_time = [results[t]["error"] for t in run.sent if (results[t].get("error") or {}).get("code") == "expired"]
    assert all("last attempt failed: http_5xx" in error["message"] for error in out_of_time), "it waited for the budget"


def _epoch(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


async def test_tasks_for_any_agent_find_those_that_can(run: Run) -> None:
    """One of three fails, then another says it is ill: all tasks succeed, few calls go wrong, and the news is told once."""
    async with FakeAgent(answer(delay_s=0.02)) as well, FakeAgent(status(500)) as bad, FakeAgent() as ill:
        agents = {"well": well, "bad": bad, "ill": ill}
        ill.healthy = False
        await run.start()
        await run.send(
            "agents",
            (
                {"id": name, "endpoint": agent.endpoint, "limits": WIDE, "capabilities": ["sum"]}
                for name, agent in agents.items()
            ),
        )
        await until(lambda: run.is_unwell("ill"))
        quiet = len(ill.calls)
        metadata = {"timeout": 30_000, "retries": 2, "cache": False}
        anyone = [
            {"id": f"any-{n}", "type": "agent", "capabilities": ["sum"], "payload": n, "metadata": metadata}
            for n in range(120)
        ]
        await run.send("tasks", anyone[:60])
        results = await run.results(f"any-{n}" for n in range(60))
        assert {result["status"] for result in results.values()} == {"success"}
        assert {result["agentId"] for result in results.values()} == {"well"}
        assert len(bad.calls) <= 12, "until its circuit opened, no longer"
        assert len(ill.calls) == quiet
        agent_status = await run.agent_statuses()
        assert agent_status["bad"]["circuit"] == "open"
        assert agent_status["ill"]["healthy"] is False
        ill.healthy = True
        await until(lambda: run.events("agent:healthy"))
        await until(lambda: run.is_well("ill"))
        await run.send("tasks", anyone[60:])
        results = await run.results(f"any-{n}" for n in range(120))
        assert {result["status"] for result in results.values()} == {"success"}
        answered = {results[f"any-{n}"]["agentId"] for n in range(60, 120)}
        assert "ill" in answered, "it is well again, and has work again"
        assert answered <= {"well", "ill"}
        for kind in ("agent:unhealthy", "agent:healthy"):
            assert [data["agentId"] for data in await run.events(kind)] == ["ill"]
        assert b"parallax_tasks_rerouted_total" in await run.get("/metrics")
        assert run.worker is not None
        assert await asyncio.to_thread(run.worker.stop) == 0


async def test_tasks_wait_for_an_agent_that_can(run: Run) -> None:
    """All that could are ill: the tasks wait, which costs them nothing, and go on when one is well again."""
    async with FakeAgent() as only:
        only.healthy = False
        await run.start()
        await run.send("agents", [{"id": "only", "endpoint": only.endpoint, "limits": WIDE, "capabilities": ["sum"]}])
        await until(lambda: run.is_unwell("only"))
        metadata = {"timeout": 3000, "retries": 0, "cache": False}
        wanted = [
            {"id": f"any-{n}", "type": "agent", "capabilities": ["sum"], "payload": n, "metadata": metadata}
            for n in range(20)
        ]
        await run.send("tasks", wanted)

        async def all_parked() -> bool:
            return len({data["taskId"] for data in await run.events("task:parked")}) == 20

        await until(all_parked)
        await asyncio.sleep(3.5)  # longer than an attempt may take
        assert only.calls == type(only.calls)()
        only.healthy = True
        results = await run.results((record["id"] for record in wanted), 30)
        assert {result["status"] for result in results.values()} == {"success"}
        assert len(only.calls) == 20
        assert run.worker is not None
        assert await asyncio.to_thread(run.worker.stop) == 0
