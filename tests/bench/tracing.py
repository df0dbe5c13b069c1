"""What spans cost, in one process without a broker: the hooks where nobody wants spans, and a task with them.

    make bench-tracing

In: nothing. Out: a table on stdout. The handler, its queues and its records are real; partition, agents and transport are fakes,
so a task costs less here than in a worker. Exporting is measured by itself: it takes its CPU in a thread.
"""

from __future__ import annotations

import asyncio
import gc
import time
import timeit
from types import SimpleNamespace
from typing import Any, cast

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, TraceIdRatioBased

from streams.dispatch.spans import TaskSpans
from streams.engine.partition_processor import PartitionProcessor
from tests.support.dispatching import Dispatching, FakePartition
from tests.support.tracing import Recording

TASKS = 4000
PORTION = 100
ROUNDS = 3
WIDE = {"max_requests": 1_000_000, "window_ms": 60_000, "max_concurrency": 10_000}
ROWS: dict[str, Sampler | None] = {
    "no spans": None,
    "sampled: none": ALWAYS_OFF,
    "sampled: one in ten": TraceIdRatioBased(0.1),
    "sampled: all": ALWAYS_ON,
}


def hooks_ns() -> float:
    """What a task pays for the hooks where nobody wants spans: both calls, and the looks at what is not there."""
    job: Any = SimpleNamespace(span=None, watch=None)
    spans = TaskSpans(None, cast("PartitionProcessor", FakePartition()))
    looks = "job.span is None; job.span is None; job.watch is None; job.span is None; job.span is None"
    code = f"spans.begin(job); spans.end(job, ()); {looks}"
    return min(timeit.repeat(code, globals={"job": job, "spans": spans}, number=200_000, repeat=5)) / 200_000 * 1e9


async def task_us(seen: Recording | None) -> float:
    """CPU of a task."""
    one = Dispatching(tracing=None if seen is None else seen.tracing, limits=WIDE, dispatch={"max_in_flight": 100_000})
    began = time.process_time()
    for first in range(0, TASKS, PORTION):
        for offset in range(first, first + PORTION):
            one.take(offset, payload={"n": offset}, metadata={"cache": False})
        while len(one.partition.ended) < first + PORTION:  # noqa: ASYNC110 - one turn of the loop at a time
            await asyncio.sleep(0)
        one.partition.commit()
    return (time.process_time() - began) / TASKS * 1e6


def encoded_us(seen: Recording) -> float:
    """CPU of a span that is made ready to be sent."""
    spans = seen.spans[:2048]
    began = time.process_time()
    encode_spans(spans).SerializePartialToString()
    return (time.process_time() - began) / len(spans) * 1e6


async def main() -> None:
    """The table."""
    print(f"hooks, no spans       {hooks_ns():8.0f} ns a task")
    for name, sampler in ROWS.items():
        found: list[float] = []
        for _ in range(ROUNDS):
            seen = None if sampler is None else Recording(sampler=sampler)
            gc.collect()
            found.append(await task_us(seen))
        print(f"{name:21} {min(found):8.1f} us a task")
        if sampler is ALWAYS_ON and seen is not None:
            print(f"{'encoding':21} {encoded_us(seen):8.1f} us a span, {len(seen.spans) / TASKS:.0f} a task")


if __name__ == "__main__":
    asyncio.run(main())
