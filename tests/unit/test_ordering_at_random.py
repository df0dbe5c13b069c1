"""Tasks with ordering keys among many things that happen: called one at a time, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from streams.dispatch import ordering
from tests.support.ordering import Conversations, handlers, nothing_left

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    """Handlers that are closed at the end."""
    with handlers() as build:
        yield build


@pytest.mark.parametrize("seed", range(20))
async def test_order_holds_whatever_happens(make: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Little memory, failures, retries, deadlines, cancels, priorities, relocations: calls of a key are in order and apart."""
    rng = random.Random(seed)
    monkeypatch.setattr(ordering, "KEEP", rng.choice((1, 3)))
    monkeypatch.setattr(ordering, "MAX_IN_MEMORY", rng.choice((2, 50)))
    one = make(dispatch={"max_held_bytes": rng.choice((10_000, 100_000))}, retry={"initial_delay": 50})
    world = Conversations(one, rng)
    monkeypatch.setattr(one.transport, "call", world.call)
    for offset in range(200):
        world.send(offset)
        world.disturb(offset)
        await asyncio.sleep(rng.choice((0, 0, 0.05)))
        world.read_relocated()
    async with asyncio.timeout(3600):
        while not nothing_left(one):
            await asyncio.sleep(0.1)
            world.read_relocated()
    assert world.beside == []
    assert world.relocated > 10
    assert sum(map(len, world.called.values())) > 40
    for numbers in world.called.values():
        assert all(early < late for early, late in pairwise(numbers))
