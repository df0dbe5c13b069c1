"""A partition that moves, or is opened again, while calls are under way: they count there, though none of their tasks ended."""

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
    committer = FakeCommitter()
    partition = PartitionProcessor(0, committer, partitions(), on_room=lambda _: None, on_lost=lambda _, error: None)
    old = Dispatching(partition=partition)
    old.register(id="a1", endpoint="http://h", limits=limits)
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


async def test_calls_count_when_the_same_worker_opens_the_partition_again() -> None:
    """The commit failed, or the log changed, so that nothing of the calls was committed; they were made all the same."""
    limits = {"maxRequests": CALLS, "windowMs": 60_000, "maxConcurrency": CALLS}
    old = Dispatching()
    old.register(id="a1", endpoint="http://h", limits=limits)
    old.take(0, payload=0)
    await old.result(0)
    committed = [output.value or b"" for output in old.handler.changes()]
    old.transport.gate.clear()
    for offset in range(1, CALLS):
        old.take(offset, payload=offset)
    await until(lambda: len(old.transport.calls) == CALLS)
    old.handler.close()
    outlasting = old.handler.outlasting()
    heir = Dispatching(kept=[*committed, *outlasting])
    heir.register(id="a1", endpoint="http://h", limits=limits)
    assert heir.handler.outlasting() == outlasting, "it may lose the partition before any task comes"
    for offset in range(CALLS):
        heir.take(offset, payload=offset)
    await settle(60)
    assert heir.transport.calls == []
    assert heir.handler.changes(), "and is written with the next commit"
    heir.handler.close()
