"""What a scrape of `/metrics` costs a worker whose partitions hold many agents, and how long the loop waits for it.

In: numbers of agents. Out: a row each: CPU of a page, its size, the longest turn of the loop while it was written, and the time
of the registry's own writer, which holds the loop until it is done. No broker: callers are real, their agents answer at once.

    python -m tests.bench.scrape [AGENTS ...]
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from prometheus_client import generate_latest

from streams.agents.metrics import AgentMetrics
from streams.engine.observed import observe
from streams.metrics_page import written
from streams.worker import settle_memory
from tests.support.dispatching import Dispatching
from tests.support.wait import until

PAGES = 20


async def main() -> None:
    """Print the rows."""
    print(f"{'agents':>7} {'lines':>7} {'KiB':>6} {'CPU ms':>7} {'longest turn ms':>16} {'in one piece ms':>16}")
    for agents in [int(word) for word in sys.argv[1:]] or [10, 1000, 5000]:
        await row(agents)


async def row(agents: int) -> None:
    """Callers that were called once, a page over and over."""
    rig = Dispatching()
    for number in range(agents):
        rig.register(id=f"agent-{number:05}", endpoint="http://h")
        rig.take(number, target=f"agent-{number:05}")
    await until(lambda: len(rig.partition.ended) == agents, 60)
    rig.partition.ended.clear()
    rig.emitted.clear()
    AgentMetrics(rig.registry, lambda: [rig.handler.callers], dict)
    observe(rig.registry, list, lambda: {"dispatch": True})
    settle_memory()
    page = await written(rig.registry)
    cpu_ms, turn_ms = await measured(lambda: written(rig.registry))
    whole_ms, _ = await measured(lambda: whole(rig))
    lines = page.count(b"\n")
    print(f"{agents:>7,} {lines:>7,} {len(page) / 1024:>6.0f} {cpu_ms:>7.1f} {turn_ms:>16.1f} {whole_ms:>16.1f}")
    rig.handler.close()
    gc.collect()


async def whole(rig: Dispatching) -> bytes:
    """The registry's own."""
    return generate_latest(rig.registry)


async def measured(page: Callable[[], Awaitable[bytes]]) -> tuple[float, float]:
    """Median CPU of a page, and the median of the CPU of each page's longest turn, ms: other processes do not count."""
    spent, turns = [], []
    for _ in range(PAGES):
        longest, last = 0.0, time.thread_time()

        async def ticking() -> None:
            nonlocal longest, last
            while True:
                now = time.thread_time()
                longest, last = max(longest, now - last), now
                await asyncio.sleep(0)

        began = time.process_time()
        ticker = asyncio.create_task(ticking())
        await page()
        spent.append((time.process_time() - began) * 1000)
        await asyncio.sleep(0)
        ticker.cancel()
        turns.append(longest * 1000)
    return statistics.median(spent), statistics.median(turns)


if __name__ == "__main__":
    asyncio.run(main())
