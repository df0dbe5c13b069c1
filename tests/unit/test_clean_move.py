"""A partition that moves while calls are under way: they count at the next owner, though no task of theirs was finished."""

from __future__ import annotations

import pytest

from streams.engine.partition_processor import Head, PartitionProcessor
from tests.support.dispatching import Dispatching
from tests.support.partition_fakes import FakeCommitter, partitions
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

CALLS = 10


async def test_calls_that_are_cut_off_count_for_the_next_owner() -> None:
    """Ten are allowed in a minute; ten were made and cut off by the move: the next owner makes none."""
    limits = {"maxRequests": CALLS, "windowMs": 60_000, "maxConcurrency": CALLS}
    old = Dispatching()
    old.register(id="a1", endpoint="http://h", limits=limits)
    committer = FakeCommitter()
    partition = PartitionProcessor(0, committer, partitions(), on_room=lambda _: None, on_lost=lambda _, error: None)
    old.handler._partition = partition
    partition.open({source: Head(0, "", False) for source in partitions()}, old.handler)
    await until(lambda: committer.commits)
    old.transport.gate.clear()
    for offset in range(CALLS):
        partition.ledgers["tasks"].track(offset)
        old.take(offset, payload=offset)
    await until(lambda: len(old.transport.calls) == CALLS)
    await partition.drain(0.1)
    assert old.transport.cancelled == CALLS
    newest = {o.key: o.value for outputs, _ in committer.commits for o in outputs if o.topic == "state"}
    heir = Dispatching(kept=[value for value in newest.values() if value])
    heir.register(id="a1", endpoint="http://h", limits=limits)
    for offset in range(CALLS):
        heir.take(offset, payload=offset)
    await settle(60)
    assert heir.transport.calls == []
    heir.handler.close()
