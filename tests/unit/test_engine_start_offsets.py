"""Where the engine begins to read a partition: what was committed, what is remembered, logs that were cut or made anew."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine.kept_offsets import KeptOffsets
from streams.rules.engine import offset_map
from tests.support.engine_rig import TASKS, MakeRig, settled
from tests.support.engine_rig import rig as rig
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


async def test_what_nobody_misses_begins_at_its_end_if_the_group_never_committed(rig: MakeRig) -> None:
    """Here `dispatch`; what comes while the partition is being opened is taken, and the place is committed at once."""
    one = await rig(from_end=lambda kept: ("dispatch",), state="state")
    late = TopicPartition("t.dispatch", 0)
    one.consumer.write(TASKS, 3)
    one.consumer.write(late, 4)
    one.state_topic.on_read = lambda: one.consumer.write(late, 2)
    await one.ready()
    assert await settled(one, "dispatch") == [4, 5], "after the end there was before what is remembered was read"
    assert one.taken == [0, 1, 2]
    await until(lambda: one.committed(late) == 4 and one.committed() == 0)


async def test_an_added_partition_is_read_from_its_beginning(rig: MakeRig) -> None:
    """What lies there may be for a plan that another partition has by now."""
    one = await rig(from_end=lambda kept: ("dispatch",), state="state", belongs=lambda *row: True)
    heads = KeptOffsets("g", "state", lambda: 0).record(0, {}, counts=[1])
    one.state_topic.rows[0] = {heads.key or b"": heads.value or b""}
    one.consumer.write(TopicPartition("t.state", 0), 1)
    one.consumer.write(TopicPartition("t.dispatch", 1), 4)
    one.engine.config.assignor.partitions = 2
    await one.ready(1)
    assert await settled(one, "dispatch") == [0, 1, 2, 3]


@pytest.mark.parametrize("why", ["remembered", "committed", "made anew"])
async def test_it_begins_where_it_always_did_otherwise(rig: MakeRig, why: str) -> None:
    """Something is remembered that may wait for it; or the group committed; or the topic was recreated."""
    asked: list[list[bytes]] = []

    def from_end(kept: Any) -> tuple[str, ...]:
        asked.append(kept)
        return () if why == "remembered" else ("dispatch",)

    one = await rig(from_end=from_end, state="state")
    one.state_topic.rows[0] = {b"key": b"kept"}
    late = TopicPartition("t.dispatch", 0)
    one.consumer.write(late, 4)
    if why != "remembered":
        one.consumer.store({late: OffsetAndMetadata(1 if why == "committed" else 9, "")})
    await one.ready()
    assert await settled(one, "dispatch") == ([1, 2, 3] if why == "committed" else [0, 1, 2, 3])
    assert asked == [[b"kept"]]


async def test_what_the_last_owner_finished_is_not_fed(rig: MakeRig) -> None:
    """The map beside the offset is honoured."""
    one = await rig()
    one.consumer.write(TASKS, 8)
    one.consumer.store({TASKS: OffsetAndMetadata(1, offset_map.encode("t.tasks", 0, 1, [(2, 3), (6, 6)]))})
    await one.ready()
    await until(lambda: len(one.taken) >= 4)
    assert one.taken == [1, 4, 5, 7]
    one.finish(1, 4, 5, 7)
    await until(lambda: one.committed() == 8)


@pytest.mark.parametrize(("exact", "head"), [(True, 0), (False, 50)])
async def test_a_committed_offset_beyond_the_log(rig: MakeRig, exact: bool, head: int) -> None:
    """The topic was made anew: from its beginning, if the broker's end offsets can be believed."""
    one = await rig(exact_ends=exact)
    one.consumer.write(TASKS, 3)
    one.consumer.store({TASKS: OffsetAndMetadata(50, "")})
    await one.ready()
    assert one.engine.processors[0].ledgers["tasks"].head == head


@pytest.mark.parametrize("missed", [True, False])
async def test_records_that_expired_while_no_worker_ran_are_passed_and_counted_if_they_are_missed(
    rig: MakeRig, missed: bool
) -> None:
    """The group had committed 3 of 10 when the first 8 were removed: five were never read, the rest comes.

    Results are not missed while no plan is under way: they do not expire, and are passed without a report.
    """
    one = await rig(from_end=None if missed else lambda state: ["tasks"])
    one.consumer.write(TASKS, 10)
    one.consumer.store({TASKS: OffsetAndMetadata(3, "")})
    one.consumer.delete_records(TASKS, 8)
    await one.ready()
    await until(lambda: one.taken == [8, 9])
    await until(lambda: one.committed() == 8)
    assert one.engine.expired.by_topic == {"t.parked": 0, "t.dispatch": 0, "t.tasks": 5 if missed else 0}
