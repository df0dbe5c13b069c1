"""How soon an agent sees that its call was given up, over every transport of the contract suite. Part of `make bench`.

    python -m tests.bench.cancelling [--calls 50]

A call that hangs is cancelled; counted is the time until the agent notices: its connection or stream is closed, or it is told.
Agent and caller share this process. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time

import structlog
from rich.console import Console
from rich.table import Table

from agents_io.fakes.steps import hang
from tests.support.transport_makers import MAKERS, Maker
from tests.support.wait import until


async def measure(make: Maker, calls: int) -> list[float]:
    """Milliseconds, sorted."""
    took = []
    for _ in range(calls):
        async with make(hang()) as rig:
            task = asyncio.create_task(rig.call())
            await until(lambda rig=rig: bool(rig.fake.calls))  # type: ignore[misc]
            await asyncio.sleep(0.02)
            began = time.time()
            task.cancel()
            await asyncio.wait([task])
            await until(lambda rig=rig: rig.fake.calls[0].ended == "closed")  # type: ignore[misc]
            took.append((rig.fake.calls[0].ended_at - began) * 1000)
    return sorted(took)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    table = Table(title=f"cancelled -> the agent sees it, ms, {options.calls} calls each")
    for column in ("transport", "p50", "p99", "longest"):
        table.add_column(column, justify="left" if column == "transport" else "right")
    for make in MAKERS:
        took = asyncio.run(measure(make, options.calls))
        figures = (took[len(took) // 2], took[int(len(took) * 0.99)], took[-1])
        table.add_row(make.__name__, *(f"{ms:.1f}" for ms in figures))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
