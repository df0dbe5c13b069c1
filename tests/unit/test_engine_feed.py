"""What the engine feeds to the handlers of its partitions: in order, as far as there is room, past transaction markers."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from streams.rules.engine import ledger
from tests.support.engine_rig import TASKS, MakeRig
from tests.support.engine_rig import rig as rig
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_a_handler_without_room_is_given_nothing(rig: MakeRig) -> None:
    """What was fetched waits in order, and no more is fetched for that partition; others go on."""
    one = await rig()
    one.consumer.write(TASKS, 3)
    await one.ready()
    await until(lambda: len(one.taken) == 3)
    one.handler.open = False
    one.consumer.write(TASKS, 4)
    await asyncio.sleep(0.05)
    polls = one.consumer.polls
    await asyncio.sleep(0.05)
    assert one.consumer.polls == polls
    assert len(one.taken) == 3
    one.handler.open = True
    one.finish(0)
    await until(lambda: one.taken == list(range(7)))


async def test_a_full_map_stops_intake_until_it_shrinks(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second record hangs: intake stops while the map still fits, and goes on to the end once they finish."""
    monkeypatch.setattr(ledger, "LIMIT_BYTES", 200)
    count = 2500
    one = await rig()
    await one.ready()
    done = 0
    while one.consumer.end(TASKS) < count:  # in portions: a long row in flight makes a small map
        one.consumer.write(TASKS, 50)
        await asyncio.sleep(0.02)
        one.finish(*(offset for offset in one.taken[done:] if offset % 2))
        done = len(one.taken)
        await asyncio.sleep(0.02)
    assert 200 < len(one.taken) < count
    text = one.consumer.stored[TASKS].metadata
    assert 0 < len(text) <= 200
    while one.committed() < count:
        seen = one.taken
        one.finish(*(offset for offset in seen if offset % 2 == 0 or offset >= done))
        done = max(done, len(seen))
        await asyncio.sleep(0.01)
    assert one.taken == list(range(count))


async def test_markers_at_the_end_are_passed(rig: MakeRig) -> None:
    """The commit reaches the log's end although no record lies there; not while a record before is open."""
    one = await rig()
    one.consumer.write(TASKS, 2)
    one.consumer.beyond[TASKS] = 3
    await one.ready()
    await until(lambda: len(one.taken) == 2)
    one.finish(1)
    await asyncio.sleep(0.05)
    assert one.committed() == 0
    one.finish(0)
    await until(lambda: one.committed() == 5)


async def test_markers_are_passed_under_traffic_if_a_handler_waits_for_them(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something comes with each poll, so that no poll finds nothing."""
    one = await rig()
    parked = TopicPartition("t.parked", 0)
    one.consumer.write(parked, 2)
    one.consumer.beyond[parked] = 3
    poll = one.consumer.getmany

    async def finds_something(*partitions: TopicPartition, **options: Any) -> Any:
        await asyncio.sleep(0.01)
        if TASKS in partitions:
            one.consumer.write(TASKS, 1)
        return await poll(*partitions, **options)

    monkeypatch.setattr(one.consumer, "getmany", finds_something)
    await one.ready()
    processor = one.engine.processors[0]
    assert not processor.caught_up("parked")
    one.consumer.write(TASKS, 1)
    before = len(one.consumer.logs[TASKS])
    await until(lambda: processor.caught_up("parked"), 5.0)
    assert processor.ledgers["parked"].next == 5
    assert len(one.consumer.logs[TASKS]) < before + 5, "as many polls found something, and none found nothing"


async def test_a_turn_of_the_loop_hands_over_a_few(rig: MakeRig) -> None:
    """Whatever waits and however much room there is: the rest of the worker, commits above all, has its turn between."""
    one = await rig()
    await one.ready()
    seen = [0]
    turns: list[asyncio.Task[None]] = []

    async def watch() -> None:
        while len(one.taken) < 400:
            seen.append(len(one.taken))
            await asyncio.sleep(0)

    process = one.handler.process

    def watched(source: str, record: Any) -> None:
        if not turns:  # from here on to the last record no time passes
            turns.append(asyncio.create_task(watch()))
        process(source, record)

    one.handler.process = watched
    one.consumer.write(TASKS, 400)
    await until(lambda: turns and turns[0].done())
    seen.append(len(one.taken))
    assert seen[-1] == 400
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) <= 128
