"""Keys and partitions when partitions are added: each key of a new partition was in its ancestor, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.partitioning import partition_for
from schemas.topics import ALIGNED, INTAKE, PLAN_INTAKE, SCHEDULE_INTAKE
from streams.rules.broker.growth import GROWTH_ORDER, GrowthRefused, planned_growth
from streams.rules.engine.growth import lineage, strays, with_count

COUNTS = st.integers(1, 64)


@given(key=st.binary(min_size=1, max_size=40), before=COUNTS, factor=st.integers(2, 8))
def test_a_keys_earlier_partition_is_in_the_lineage_of_its_new_one(key: bytes, before: int, factor: int) -> None:
    """Or it stayed where it was."""
    now = partition_for(key, before * factor)
    then = partition_for(key, before)
    assert then == now or (before, then) in lineage(now, before * factor)


@given(counts=st.lists(COUNTS, max_size=6), count=COUNTS)
def test_the_count_of_now_comes_last_and_once(counts: list[int], count: int) -> None:
    """And is no stray of itself."""
    kept = with_count(counts, count)
    assert kept[-1] == count
    assert kept.count(count) == 1
    assert strays(kept, count) is None


@given(counts=st.fixed_dictionaries({name: st.sampled_from((8, 16, 32)) for name in ALIGNED}))
def test_growth_goes_on_from_wherever_it_was_interrupted(counts: dict[str, int]) -> None:
    """Whatever some topics have already."""
    assert planned_growth(counts, 32) == [name for name in GROWTH_ORDER if counts[name] < 32]
    assert planned_growth(dict.fromkeys(counts, 32), 32) == []
    if set(counts.values()) != {8}:
        with pytest.raises(GrowthRefused, match="24"):
            planned_growth(counts, 24)


def test_what_a_group_writes_to_by_number_is_there_before_it_takes_new_partitions_up() -> None:
    """Dispatch writes to its own topics, `state` and `scheduled`; the role `schedules` to `dispatch`; plans to `plans`."""
    assert sorted(GROWTH_ORDER) == sorted(ALIGNED)

    def taken_up(intake: tuple[str, ...]) -> int:
        return max(map(GROWTH_ORDER.index, intake))

    for intake, written in (
        (INTAKE, (*INTAKE, "state", "scheduled")),
        (PLAN_INTAKE, (*PLAN_INTAKE, "plan-state")),
        (SCHEDULE_INTAKE, (*SCHEDULE_INTAKE, "schedule-state", "dispatch")),
    ):
        assert all(GROWTH_ORDER.index(name) <= taken_up(intake) for name in written)
