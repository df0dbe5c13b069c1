"""What statistics cost: CPU and pace per point with everything on, and how long a start takes.

`python -m tests.bench.statistics [--points 50000] [--agents 60] [--keys 100000] [--bootstrap HOST:PORT]`: without an address it
starts real Kafka itself. Prints one line per figure; asserts nothing about speed, but compares the windows with a recount.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
import uuid

import orjson

from streams.broker.noise import quiet_logs
from streams.broker.topics_admin import apply
from streams.settings import Settings
from streams.statistics.processor import StatsProcessor
from tests.support.kafka import KafkaCluster
from tests.support.points import compare, fleet, produce, read_all
from tests.support.wait import until


def _settings(bootstrap: str) -> Settings:
    name = f"b{uuid.uuid4().hex[:8]}"
    return Settings(
        bootstrap_servers=bootstrap, topic_prefix=f"{name}.", app_id=name, instance_id="w1", session_timeout=6000
    )


async def _started(settings: Settings) -> tuple[StatsProcessor, float]:
    began = time.monotonic()
    processor = StatsProcessor(settings)
    await processor.start()
    await processor.wait_ready()
    return processor, time.monotonic() - began


async def pace(bootstrap: str, count: int, agents: int) -> None:
    """A backlog of points, counted from the first to the last."""
    settings = _settings(bootstrap)
    await apply(settings, 8)
    points = fleet(5, count, agents, int(time.time() * 1000) - count * 10)
    await produce(bootstrap, f"{settings.topic_prefix}data-points", points)
    processor, start_s = await _started(settings)
    print(f"start on an empty changelog: {start_s:.1f} s")
    wall, cpu = time.monotonic(), time.process_time()
    already = processor.counters()["points"]
    await until(lambda: processor.counters()["points"] >= count, 300)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    folded = count - already
    series = processor.counters()["series"]
    print(f"{folded} points, {series} series: {cpu / folded * 1e6:.0f} us CPU a point, {folded / wall:.0f} points/s")
    await processor.stop()
    aggregates = [orjson.loads(r.value) for r in await read_all(bootstrap, f"{settings.topic_prefix}aggregates")]
    changelog = await read_all(bootstrap, f"{settings.topic_prefix}stats-changelog")
    size = sum(len(record.value or b"") for record in changelog)
    print(
        f"aggregates written: {len(aggregates)}; changelog: {len(changelog)} records, {size / max(1, len(changelog)):.0f} B each"
    )
    wrong = compare(aggregates, points)
    print("windows equal the recount" if not wrong else f"WRONG: {len(wrong)} differences, first {wrong[0]}")


async def recovery(bootstrap: str, keys: int) -> None:
    """A changelog of `keys` series, three points each."""
    settings = _settings(bootstrap)
    await apply(settings, 8)
    points = fleet(6, keys * 3 // 2, keys // 2, int(time.time() * 1000) - 60_000, step_ms=0.5)
    await produce(bootstrap, f"{settings.topic_prefix}data-points", points)
    processor, _ = await _started(settings)
    await until(lambda: processor.counters()["points"] >= len(points), 300)
    series = processor.counters()["series"]
    await processor.stop()
    cpu = time.process_time()
    processor, start_s = await _started(settings)
    print(f"start on a changelog of {series} series: {start_s:.1f} s, {time.process_time() - cpu:.1f} s CPU")
    assert processor.counters()["series"] == series
    await processor.stop()


async def _all(bootstrap: str, arguments: argparse.Namespace) -> None:
    await pace(bootstrap, arguments.points, arguments.agents)
    await recovery(bootstrap, arguments.keys)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--agents", type=int, default=60)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--bootstrap")
    arguments = parser.parse_args()
    quiet_logs()
    with contextlib.ExitStack() as stack:
        bootstrap = arguments.bootstrap or stack.enter_context(KafkaCluster(brokers=1, measured=True)).bootstrap_servers
        asyncio.run(_all(bootstrap, arguments))


if __name__ == "__main__":
    main()
