"""Statistics on the embedded broker: points in, aggregates, anomalies, events and dead letters out, a restart in between."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.messages import Aggregate, Anomaly
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings, load
from streams.statistics.aggregator import Aggregator
from streams.statistics.app import StatsApp
from streams.statistics.processor import NotReady, StatsProcessor
from tests.support.points import compare, fleet, newest, produce, read_all
from tests.support.wait import until

pytestmark = pytest.mark.embedded

GARBAGE = [b"not json", b'{"agentId":"agent-0"}', b'{"agentId":"a","confidence":NaN}', b"[]", b"\xff\xfe"]


def _settings(broker: EmbeddedBroker, prefix: str, **fields: Any) -> Settings:
    return Settings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=prefix,
        app_id=prefix.rstrip("."),
        instance_id="w1",
        session_timeout=6000,
        **fields,
    )


async def _documents(broker: EmbeddedBroker, topic: str) -> list[dict[str, Any]]:
    return [orjson.loads(record.value) for record in await read_all(broker.bootstrap_servers, topic)]


async def test_aggregates_equal_a_recount_and_garbage_costs_only_itself(embedded: EmbeddedBroker, prefix: str) -> None:
    """Thousands of points with garbage between: exact windows, one dead letter per bad record, the drop found, a restart
    survived."""
    settings = _settings(embedded, prefix)
    await apply(settings, 4)
    points = fleet(7, 4000, 8, int(time.time() * 1000) - 60_000, drops=("agent-3",))
    first, second = points[:2500], points[2500:]
    topic = f"{prefix}data-points"
    sent = await produce(embedded.bootstrap_servers, topic, [*first[:1000], *GARBAGE, *first[1000:]])

    processor = StatsProcessor(settings)
    with pytest.raises(NotReady):
        processor.windows("agent-3")
    await processor.start()
    try:
        await processor.wait_ready(60)
        await until(lambda: processor.counters()["points"] >= sent, 60)
        assert processor.counters()["rejected"] == len(GARBAGE)
    finally:
        await processor.stop()

    sent = await produce(embedded.bootstrap_servers, topic, second)
    processor = StatsProcessor(settings)
    await processor.start()
    try:
        await processor.wait_ready(60)
        await until(lambda: processor.counters()["points"] >= sent, 60)
        assert processor.counters()["points"] == sent, "the graceful stop had committed everything"
        windows = processor.windows("agent-3")
        assert {window.interval for window in windows} == {"minute", "hour", "day"}
    finally:
        await processor.stop()

    aggregates = await _documents(embedded, f"{prefix}aggregates")
    assert compare(aggregates, points) == []
    held = {key: record for key, record in newest(aggregates).items() if key[0] == "agent-3"}
    assert len(windows) == len(held), "what is asked and what is published are the same windows"
    assert all(Aggregate.model_validate(record) for record in aggregates)

    letters = await read_all(embedded.bootstrap_servers, f"dlq.{prefix}data-points")
    assert sorted(letter.value for letter in letters) == sorted(GARBAGE)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["mine"] == b"kept"
        assert headers["__dlq.errors.topic"] == topic.encode()
        assert headers["__dlq.errors.message"]

    anomalies = [Anomaly.model_validate(record) for record in await _documents(embedded, f"{prefix}anomalies")]
    assert {a.agent_id for a in anomalies if a.type == "sudden_drop"} == {"agent-3"}
    ids = [(a.id, a.state) for a in anomalies]
    assert len(ids) == len(set(ids)), "each transition is published once"
    events = await _documents(embedded, f"{prefix}events")
    detected = [event for event in events if event["type"] == "anomaly:detected"]
    assert {e["data"]["anomalyId"] for e in detected} == {a.id for a in anomalies if a.state == "firing"}
    assert all({"type", "agentId", "details"} <= event["data"].keys() for event in detected)


async def test_idle_windows_close_by_the_clock_exactly_once(embedded: EmbeddedBroker, prefix: str) -> None:
    """Points of an hour ago and no more: their minutes and their hour are published as final, once, without another point."""
    settings = _settings(embedded, prefix)
    await apply(settings, 2)
    start = int(time.time() * 1000) // 3_600_000 * 3_600_000 - 2 * 3_600_000
    points = fleet(3, 200, 2, start + 600_000, step_ms=1000)
    sent = await produce(embedded.bootstrap_servers, f"{prefix}data-points", points)
    processor = StatsProcessor(settings)
    await processor.start()
    try:
        await processor.wait_ready(60)
        await until(lambda: processor.counters()["points"] >= sent, 60)
        agents = ("agent-0", "agent-1")
        await until(lambda: all(w.final for a in agents for w in processor.windows(a) if w.interval != "day"), 30)
    finally:
        await processor.stop()
    aggregates = await _documents(embedded, f"{prefix}aggregates")
    assert compare(aggregates, points) == []
    finals = [(a["agentId"], a["patternName"], a["interval"], a["windowStart"]) for a in aggregates if a["final"]]
    assert finals
    assert len(finals) == len(set(finals))
    assert {interval for _, _, interval, _ in finals} >= {"minute", "hour"}


async def test_a_missing_topic_is_one_clear_line(embedded: EmbeddedBroker, prefix: str) -> None:
    """Without `data-points` the processor refuses to start and names the remedy."""
    processor = StatsProcessor(_settings(embedded, prefix))
    with pytest.raises(Exception, match="parallax topics apply"):
        await processor.start()
    await processor.stop()


async def test_a_fault_inside_faust_is_raised_and_the_processor_is_not_ready(
    embedded: EmbeddedBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mode keeps crashes to itself; `failed` does not, whether the app or the counting broke."""
    settings = _settings(embedded, prefix)
    await apply(settings, 2)
    apps: list[StatsApp] = []

    def app_of(**parts: Any) -> StatsApp:
        apps.append(StatsApp(**parts))
        return apps[-1]

    async def broken(self: Aggregator) -> None:
        raise RuntimeError("broke")

    monkeypatch.setattr("streams.statistics.processor.StatsApp", app_of)
    for where in ("app", "counting"):
        processor = StatsProcessor(settings)
        await processor.start()
        try:
            await processor.wait_ready(60)
            if where == "app":
                await apps[0].crash(RuntimeError("broke"))
            else:
                monkeypatch.setattr(Aggregator, "count_batch", broken)
            with pytest.raises(RuntimeError, match="broke"):
                async with asyncio.timeout(10):
                    await processor.failed()
            assert not processor.ready
            with pytest.raises(NotReady):
                processor.windows("agent-0")
        finally:
            await processor.stop()


def test_nothing_is_pickled() -> None:
    """State is JSON. Only the two ends of a pipe do it: what a worker tells the process that it starts comes from nobody else."""
    import streams.statistics

    pickling = {
        file.name for file in Path(streams.statistics.__file__).parent.glob("*.py") if "pickle" in file.read_text()
    }
    assert pickling == {"child.py", "process.py"}


async def test_one_line_switches_adwin_on_for_one_agent_and_anomalies_show_what_it_found(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """Settings from a file; two agents fall alike, river's detector watches one of them; asked with the command."""
    (tmp_path / "parallax.toml").write_text(
        'stats.detectors.adwin = { use = "river.drift.ADWIN", agent = "agent-0" }\n'
    )
    chosen = load({}, {}, tmp_path).stats
    settings = _settings(embedded, prefix, stats=chosen)
    await apply(settings, 2)
    points = fleet(11, 3000, 2, int(time.time() * 1000) - 60_000, drops=("agent-0", "agent-1"))
    sent = await produce(embedded.bootstrap_servers, f"{prefix}data-points", points)
    processor = StatsProcessor(settings)
    await processor.start()
    try:
        await processor.wait_ready(60)
        await until(lambda: processor.counters()["points"] >= sent, 60)
    finally:
        await processor.stop()
    command = [str(Path(sys.executable).with_name("parallax")), "anomalies", "-o", "jsonl", "--topic-prefix", prefix]
    ended = await asyncio.create_subprocess_exec(
        *command, "--bootstrap-servers", embedded.bootstrap_servers, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await ended.communicate()
    rows = [orjson.loads(line) for line in out.splitlines()]
    found = [row for row in rows if row["details"]["detector"] == "river.drift.ADWIN"]
    assert {row["agentId"] for row in found} == {"agent-0"}
    assert {row["type"] for row in found} == {"drift"}
    assert found[0]["details"]["parameters"] == {"name": "adwin"}
    assert {row["agentId"] for row in rows if row["type"] == "sudden_drop"} == {"agent-0", "agent-1"}
