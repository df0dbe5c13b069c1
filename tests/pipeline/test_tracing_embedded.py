"""A worker as a process that exports spans to a collector on loopback; and to one that is away, or hangs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, status
from streams.broker.embedded import EmbeddedBroker
from tests.support.pipeline import WIDE, Pipeline, pipeline_on, stop
from tests.support.points import read_all
from tests.support.rig import Process, parallax, start_worker
from tests.support.tracing import TRACE, TRACEPARENT, USER, Collector, collector
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

GIVEN = [("traceparent", TRACEPARENT.encode())]
QUICK = {"PARALLAX_RETRY__INITIAL_DELAY": "20", "OTEL_BSP_SCHEDULE_DELAY": "100"}
END_S = 20.0
"""Far above what the end of a worker takes, far below what the SDK would wait for a hung collector."""


@pytest.fixture
async def pipeline(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics with four partitions."""
    async with pipeline_on(embedded.bootstrap_servers, prefix) as made:
        yield made


@asynccontextmanager
async def worker(pipeline: Pipeline, url: str, **env: str) -> AsyncIterator[Process]:
    """One that dispatches and plans, and sends its spans to `url`; ended kindly."""
    options = ("--roles", "dispatch,plans", "--instance-id", "w1", "--session-timeout", "6s", "-o", "json")
    given = QUICK | {"OTEL_EXPORTER_OTLP_ENDPOINT": url} | env
    one = await asyncio.to_thread(start_worker, pipeline.bootstrap, pipeline.prefix, *options, env=given)
    pipeline.workers.append(one)
    yield one
    if one.popen.poll() is None:
        await stop(one)


def send(pipeline: Pipeline, topic: str, *values: bytes, headers: list[tuple[str, bytes]]) -> None:
    """As a user writes them."""
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    for value in values:
        producer.produce(pipeline.prefix + topic, value, headers=headers)
    assert producer.flush(20) == 0


def task(name: str, target: str = "a") -> bytes:
    """A task that no cache answers."""
    metadata = {"cache": False}
    return orjson.dumps(
        {"id": name, "type": "agent", "target": target, "payload": {"p": "secret"}, "metadata": metadata}
    )


async def said(pipeline: Pipeline, topic: str, id_name: str) -> dict[str, str]:
    """The `traceparent` of each record of a topic, by the id in its value."""
    records = await read_all(pipeline.bootstrap, pipeline.prefix + topic)
    return {orjson.loads(record.value)[id_name]: dict(record.headers)["traceparent"].decode() for record in records}


def tree(spans: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Ids of spans by their parent's."""
    found: dict[str, list[str]] = {}
    for span in spans:
        found.setdefault(span["parent"], []).append(span["id"])
    return found


async def test_one_trace_leads_from_the_user_over_two_tries_to_the_result(pipeline: Pipeline) -> None:
    """And a plan's over its steps to its result; a dead letter is an error; nobody's words are in any span."""
    async with collector() as seen, FakeAgent([status(503, times=1), answer("secret", 0.7)]) as agent:
        await pipeline.register({"id": "a", "endpoint": agent.endpoint, "limits": WIDE})
        steps = [orjson.loads(task(name)) for name in ("x", "y")]
        plan = orjson.dumps({"id": "p", "kind": "sequential", "tasks": steps})
        env = {"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "deployment=test"}
        late = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}  # the spans go out when the worker ends, or never
        async with worker(pipeline, seen.url, **env, **late):
            send(pipeline, "tasks", task("t1"), headers=GIVEN)
            await pipeline.results(["t1"])
            send(pipeline, "tasks", b'{"secret', headers=GIVEN)
            send(pipeline, "plans", plan, headers=GIVEN)
            for topic in (f"{pipeline.prefix}plan-results", f"dlq.{pipeline.prefix}tasks"):
                await until(lambda topic=topic: read_all(pipeline.bootstrap, topic), 30)
            assert seen.spans == []
        await _the_task(pipeline, seen, agent)
        await _the_plan(pipeline, seen)
        [dead] = [span for span in seen.spans if span["attributes"].get("parallax.dlq.stage")]
        assert (dead["error"], dead["parent"], dead["name"]) == (True, USER, f"process {pipeline.prefix}tasks")
        assert {span["trace"] for span in seen.spans} == {TRACE}
        assert (
            seen.resources[0].items()
            >= {"service.name": "mine", "deployment": "test", "service.instance.id": "w1"}.items()
        )
        assert "secret" not in repr(seen.spans)
        known = {USER, *(span["id"] for span in seen.spans)}
        assert {span["parent"] for span in seen.spans} <= known, "a span whose parent nobody told of"
        assert len(known) == len(seen.spans) + 1


async def _the_task(pipeline: Pipeline, seen: Collector, agent: FakeAgent) -> None:
    works = [span for span in seen.spans if span["attributes"].get("parallax.task.id") == "t1"]
    by_parent = {span["parent"]: span for span in works}
    last, above = by_parent[USER], [by_parent[USER]["id"]]
    while (below := by_parent.get(last["id"])) is not None:  # a forward to the agent's owner partition
        last = below
        above.append(last["id"])
    assert len(above) == len(works)
    calls = [span for span in seen.named("invoke_agent a") if span["parent"] == last["id"]]
    assert [call["attributes"]["parallax.call.attempt"] for call in calls] == [1, 2]
    assert [call["error"] for call in calls] == [True, False]
    assert calls[0]["attributes"]["http.response.status_code"] == 503
    assert calls[1]["events"] == [
        ("gen_ai.evaluation.result", {"gen_ai.evaluation.name": "confidence", "gen_ai.evaluation.score.value": 0.7})
    ]
    assert [call.headers["traceparent"][3:52] for call in list(agent.calls)[:2]] == [
        f"{TRACE}-{call['id']}" for call in calls
    ]
    assert (last["attributes"]["parallax.outcome"], last["kind"]) == ("success", 5)
    assert last["begin"] <= calls[0]["begin"] < calls[1]["end"] <= last["end"]
    assert (await said(pipeline, "results", "taskId"))["t1"][3:52] == f"{TRACE}-{last['id']}"


async def _the_plan(pipeline: Pipeline, seen: Collector) -> None:
    [plan] = seen.named("invoke_workflow sequential")
    assert plan["parent"] == USER
    below = tree(seen.spans)
    for name in ("p#0", "p#1"):
        works = {span["id"] for span in seen.spans if span["attributes"].get("parallax.task.id") == name}
        assert len(works & set(below[plan["id"]])) == 1
        [end] = [work for work in works if not set(below[work]) & works]
        [call] = below[end]
        [span] = [span for span in seen.spans if span["id"] == call]
        assert plan["begin"] <= span["begin"] <= span["end"] <= plan["end"]
    assert (await said(pipeline, "plan-results", "planId"))["p"][3:52] == f"{TRACE}-{plan['id']}"


async def test_a_task_that_a_crash_makes_run_twice_is_one_span_with_both_calls(pipeline: Pipeline) -> None:
    """The killed worker told of its call and not of the task; the next one tells of the same task, and of its own call."""
    async with collector() as seen, FakeAgent([status(503, times=1), answer()]) as agent:
        await pipeline.register({"id": "a", "endpoint": agent.endpoint, "limits": WIDE})
        async with worker(
            pipeline, seen.url, PARALLAX_RETRY__INITIAL_DELAY="20s", PARALLAX_RETRY__JITTER="false"
        ) as one:
            send(pipeline, "tasks", task("t1"), headers=[])
            await until(lambda: bool(seen.named("invoke_agent a")), 30)
            one.kill()
        assert not [
            span for span in seen.spans if span["attributes"].get("parallax.outcome") not in (None, "forwarded")
        ]
        async with worker(pipeline, seen.url):
            await pipeline.results(["t1"])
        first, second = seen.named("invoke_agent a")
        assert (first["error"], second["error"]) == (True, False)
        assert first["trace"] == second["trace"]
        assert first["parent"] == second["parent"]
        [work] = [span for span in seen.spans if span["id"] == first["parent"]]
        assert work["attributes"]["parallax.outcome"] == "success"


@pytest.mark.parametrize("hang", [True, False])
async def test_a_collector_that_is_away_or_hangs_costs_spans_and_nothing_else(
    pipeline: Pipeline, hang: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more tasks than the queue of spans holds: all are answered, and the worker ends in time, kindly."""
    log = tmp_path / "log"
    monkeypatch.setenv("TEST_WORKER_LOG", str(log))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with collector(hang) as seen, FakeAgent() as agent:
            await pipeline.register({"id": "a", "endpoint": agent.endpoint, "limits": WIDE})
            small = {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "32"}
            async with worker(pipeline, seen.url if hang else url, **small) as one:
                names = [f"t{n}" for n in range(300)]
                send(pipeline, "tasks", *map(task, names), headers=[])
                await pipeline.results(names)
                began = time.monotonic()
                await stop(one)
                assert time.monotonic() - began < END_S
            assert bool(seen.asked) == hang
    told = log.read_text()
    assert "Traceback" not in told
    assert ("opentelemetry" in told) if not hang else ("the collector did not accept the last spans" in told)
    assert told.count("\n") < 40, "a line for every span that is lost"


async def test_a_variable_that_cannot_be_used_is_named_in_one_line(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it joins anything."""
    log = tmp_path / "log"
    monkeypatch.setenv("TEST_WORKER_LOG", str(log))
    command = parallax("worker", "--bootstrap-servers", pipeline.bootstrap, "--topic-prefix", pipeline.prefix)
    one = Process([*command, "--web-port", "0"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})
    assert await asyncio.to_thread(one.run) == 1
    assert log.read_text().splitlines()[-1] == (
        "parallax: OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL, http://host:port or https://host:port"
    )
    assert "Traceback" not in log.read_text()
