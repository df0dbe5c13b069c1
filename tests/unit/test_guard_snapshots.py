"""Limits and open circuits go on where they were when a partition moves: the time without an owner counts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agents_io.calling.rules.breaker import Breaker, BreakerConfig
from agents_io.calling.rules.limiter import SlidingWindow
from streams.dispatch.partition_state import CLOCKS_AGREE_MS, PartitionState
from streams.settings import Settings

pytestmark = pytest.mark.virtual_time

CONFIG = BreakerConfig(failure_threshold=1, reset_timeout_s=30.0)


def _caller(now: float) -> Any:
    """An agent whose circuit has just opened, and whose limit of one call a minute is used up."""
    breaker, limiter = Breaker(CONFIG), SlidingWindow(1, 60.0)
    permit = breaker.try_acquire(now)
    assert permit is not None
    breaker.record(permit, "failure", now, 0.1)
    limiter.try_acquire(now)
    limiter.settle(now, now)
    queue = SimpleNamespace(breaker=breaker, limiter=limiter, adaptive=None)
    stats = SimpleNamespace(ejection=SimpleNamespace(snapshot=lambda _: None))
    return SimpleNamespace(changed=True, agent=SimpleNamespace(id="a1"), queue=queue, stats=stats)


@pytest.mark.parametrize(
    ("later_s", "used_s"),
    [(0.0, 0.0), (1.0, 0.0), (20.0, 18.0), (-45.0, 0.0)],
    ids=["at once", "1 s", "20 s", "behind"],
)
async def test_the_time_without_an_owner_counts(later_s: float, used_s: float) -> None:
    """It counts less by what two clocks may differ; one that is behind ends nothing sooner and holds nothing longer."""
    now = asyncio.get_running_loop().time()
    written_ms = 1_700_000_000_000
    outputs = PartitionState(number=0, settings=Settings(), wall_ms=lambda: written_ms).changes([_caller(now)])
    values = [output.value or b"" for output in outputs]
    next_owner = PartitionState(
        number=0, settings=Settings(), wall_ms=lambda: written_ms + round(later_s * 1000), values=values
    )
    found = next_owner.guard("a1")
    assert found is not None
    breaker = Breaker.restore(CONFIG, found.breaker, found.taken_at)
    limiter = SlidingWindow.restore(1, 60.0, found.limiter, found.taken_at)
    assert breaker.shut_until(now) == pytest.approx(now + 30.0 - used_s, abs=0.5)
    assert limiter.available_at(now) == pytest.approx(now + 60.0 - used_s, abs=0.5)
    assert next_owner.guard("a1") is None
    assert used_s in (0.0, later_s - CLOCKS_AGREE_MS / 1000)


async def test_the_age_is_that_of_the_opening_not_of_the_first_task() -> None:
    """An agent that had no task for a while after a move is held no longer for that."""
    loop = asyncio.get_running_loop()
    values = [
        output.value or b""
        for output in PartitionState(number=0, settings=Settings(), wall_ms=lambda: 1_700_000_000_000).changes(
            [_caller(loop.time())]
        )
    ]
    memory = PartitionState(number=0, settings=Settings(), wall_ms=lambda: 1_700_000_000_000, values=values)
    opened_at = loop.time()
    await asyncio.sleep(0.3)
    found = memory.guard("a1")
    assert found is not None
    assert found.taken_at == pytest.approx(opened_at, abs=0.1)
