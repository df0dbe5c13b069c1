"""Polls that fail: one partition cannot be read, the group refuses, brokers are away."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    InvalidSessionTimeoutError,
    KafkaConnectionError,
    NodeNotReadyError,
)
from aiokafka.structs import TopicPartition

from streams.engine import feed as feed_module
from tests.support.engine_rig import TASKS, MakeRig, failed
from tests.support.engine_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_a_poll_that_fails_loses_nothing_of_other_partitions(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log cannot be read: everything of the others is taken, the unreadable one is set aside and tried again later."""
    monkeypatch.setattr(feed_module, "UNREADABLE_PAUSE_S", 0.05)
    one = await rig()
    await one.ready(0, 1, 2)
    bad = TopicPartition("t.tasks", 1)
    one.consumer.broken[bad] = CorruptRecordException("crc")
    for number in (0, 1, 2):
        one.consumer.write(TopicPartition("t.tasks", number), 20)

    def taken() -> list[tuple[int, int]]:
        return [
            (number, offset)
            for number, partition in one.engine.processors.items()
            for source, offset in partition.handler.taken
            if source == "tasks"
        ]

    await until(lambda: len(taken()) == 40)
    await settle(10)
    assert sorted(taken()) == [(number, offset) for number in (0, 2) for offset in range(20)]
    del one.consumer.broken[bad]
    await until(lambda: len(taken()) == 60)
    assert len(set(taken())) == 60


async def test_a_broken_connection_sets_no_partition_aside_for_long(rig: MakeRig) -> None:
    """Its log is not at fault: it is read again within seconds."""
    one = await rig()
    await one.ready()
    await until(lambda: TASKS in one.engine.feed.polled)
    one.consumer.broken[TASKS] = KafkaConnectionError("lost")
    one.consumer.write(TASKS, 3)
    await until(lambda: TASKS not in one.engine.feed.polled)
    del one.consumer.broken[TASKS]
    begun = asyncio.get_running_loop().time()
    await until(lambda: one.taken == [0, 1, 2])
    assert asyncio.get_running_loop().time() - begun < 5


async def test_polls_that_are_refused_for_long_fail_the_engine(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better to end with the reason than to try for ever."""
    monkeypatch.setattr(feed_module, "GIVE_UP_S", 0.05)
    monkeypatch.setattr(feed_module, "FAILED_PAUSE_S", 0.005)
    monkeypatch.setattr(feed_module, "UNREADABLE_PAUSE_S", 0.01)
    one = await rig()
    await one.ready()
    one.consumer.group_error = GroupAuthorizationFailedError("g")
    with pytest.raises(GroupAuthorizationFailedError):
        await asyncio.wait_for(one.engine.failed(), 5)


async def test_a_refused_group_is_no_partitions_fault_and_is_not_told_each_time(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No partition is set aside for it, so all go on at once when the right is given back."""
    monkeypatch.setattr(feed_module, "FAILED_PAUSE_S", 0.005)
    one = await rig()
    await one.ready()
    one.consumer.group_error = GroupAuthorizationFailedError("g")
    one.consumer.write(TASKS, 3)
    await until(lambda: one.engine.feed.failing_s > 0.2)
    told = capsys.readouterr().out
    assert told.count("Kafka refuses access to group g; what is needed") == 1
    assert "a partition cannot be read" not in told
    one.consumer.group_error = None
    await until(lambda: one.taken == [0, 1, 2])


async def test_polls_that_fail_for_want_of_brokers_are_waited_out(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stays, tells for how long it has been so, and goes on with nothing lost."""
    monkeypatch.setattr(feed_module, "GIVE_UP_S", 0.05)
    monkeypatch.setattr(feed_module, "FAILED_PAUSE_S", 0.005)
    monkeypatch.setattr(feed_module, "UNREADABLE_PAUSE_S", 0.01)
    one = await rig()
    await one.ready()
    one.consumer.group_error = NodeNotReadyError()
    one.consumer.write(TASKS, 3)
    await until(lambda: one.engine.feed.failing_s > 0.2)
    assert not await failed(one)
    one.consumer.group_error = None
    await until(lambda: one.taken == [0, 1, 2])
    assert one.engine.feed.failing_s == 0


async def test_a_group_error_is_heard_without_any_partition(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing assigned nobody polls; the coordinator's error must come out all the same."""
    monkeypatch.setattr(feed_module, "GIVE_UP_S", 0.05)
    monkeypatch.setattr(feed_module, "LISTEN_PAUSE_S", 0.01)
    one = await rig()
    one.consumer.group_error = InvalidSessionTimeoutError("no such session timeout")
    with pytest.raises(InvalidSessionTimeoutError, match="session timeout"):
        await asyncio.wait_for(one.engine.failed(), 5)
