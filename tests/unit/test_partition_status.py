"""Where a worker stands: lag from what is known without asking, of engines and of statistics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.engine.engine import Engine
from streams.engine.expired_records import ExpiredRecords
from streams.engine.partition_status import PartitionStatus, known, partition_statuses
from streams.rules.engine.ledger import Ledger
from streams.rules.engine.record_ages import RecordAges
from streams.statistics.transport import LedgerConsumer

TASKS = TopicPartition("t.tasks", 3)
POINTS = TP("t.data-points", 3)


class Fetching:
    """aiokafka's own account of its partitions, and nothing else of a consumer."""

    def __init__(self, *tps: TopicPartition) -> None:
        self._subscription = SubscriptionState()
        if tps:
            self._subscription.assign_from_user(tps)

    def fetched(self, tp: TopicPartition, position: int, highwater: int, lso: int | None) -> None:
        """As after a fetch."""
        state = self._subscription.subscription.assignment.state_value(tp)
        state.seek(position)
        state.highwater, state.lso = highwater, lso


def engine(consumer: Fetching, ledger: Ledger, ends: dict[TopicPartition, int]) -> Engine:
    """One with one open partition."""
    partition = SimpleNamespace(
        ledgers={"tasks": ledger}, partitions={"tasks": TASKS}, blocking=lambda source: {"age": source}
    )
    return cast(
        "Engine",
        SimpleNamespace(
            processors={3: partition},
            consumer=consumer,
            ends=ends,
            expired=ExpiredRecords(),
            ages=RecordAges(),
            wall_ms=int,
        ),
    )


def only(found: Any) -> PartitionStatus:
    """The one place."""
    [status] = found
    return cast("PartitionStatus", status)


@pytest.mark.parametrize(
    ("fetched", "asked", "lag"),
    [
        (None, None, None),  # nobody knows yet
        ((20, 30, 25), None, 15),  # an open transaction begins at 25
        ((20, 30, None), None, 20),  # a broker that knows no transactions
        ((20, 30, -1), None, 20),
        ((20, 30, 25), 90, 80),  # no room to fetch since: the watchdog's answer is newer
        ((20, 30, 25), 12, 15),  # the embedded broker's answers are too small
        (None, 17, 7),
        ((20, 5, 5), None, 0),  # never below zero
    ],
)
async def test_the_lag_is_the_furthest_end_known_less_what_is_committable(
    fetched: tuple[int, int, int | None] | None, asked: int | None, lag: int | None
) -> None:
    """Not less what was read."""
    consumer, ledger = Fetching(TASKS), Ledger(10)
    for offset in range(10, 20):
        ledger.track(offset)
    if fetched is not None:
        consumer.fetched(TASKS, *fetched)
    status = only(partition_statuses(engine(consumer, ledger, {} if asked is None else {TASKS: asked})))
    assert (status.topic, status.partition, status.committable, status.next, status.in_flight) == (
        "t.tasks",
        3,
        10,
        20,
        10,
    )
    assert status.lag == lag
    assert status.blocking() == {"age": "tasks"}
    assert (status.oldest_ms, status.expired) == (0, 0)


async def test_what_is_finished_out_of_order_still_counts() -> None:
    """As a lag exporter would have it: the group's offset stands at the first that is not done."""
    consumer, ledger = Fetching(TASKS), Ledger(0)
    for offset in range(5):
        ledger.track(offset)
        if offset:
            ledger.done(offset)
    consumer.fetched(TASKS, 5, 5, 5)
    assert only(partition_statuses(engine(consumer, ledger, {}))).lag == 5
    ledger.done(0)
    assert only(partition_statuses(engine(consumer, ledger, {}))).lag == 0


async def test_a_partition_that_was_taken_away_is_not_known() -> None:
    """While a rebalance is on, and before there was any."""
    for consumer in (Fetching(), Fetching(TopicPartition("t.tasks", 4))):
        assert known(cast("Any", consumer), TASKS) == (None, None)
    assert list(partition_statuses(None)) == []


def points(consumer: Fetching | None, ledger: Ledger) -> PartitionStatus:
    """Of statistics."""
    carrier = SimpleNamespace(_thread=SimpleNamespace(_consumer=consumer), _ledgers={POINTS: ledger})
    return only(LedgerConsumer.partition_statuses(cast("LedgerConsumer", carrier)))


async def test_markers_behind_the_last_point_are_no_lag() -> None:
    """Once they were read and every point is counted; not while one is in flight, nor before they were read."""
    tp, ledger = TopicPartition(*POINTS), Ledger(0)
    consumer = Fetching(tp)
    for offset in range(4):
        ledger.track(offset)
    consumer.fetched(tp, 6, 6, 6)  # four points and two markers
    assert points(consumer, ledger).lag == 6
    for offset in range(4):
        ledger.done(offset)
    assert points(consumer, ledger)[:6] == ("t.data-points", 3, 4, 4, 0, 0)
    consumer.fetched(tp, 4, 6, 6)
    assert points(consumer, ledger).lag == 2
    assert points(None, ledger).lag is None
