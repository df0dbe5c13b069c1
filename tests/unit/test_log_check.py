"""A running worker notices that a log is not the one it read; and a real partition with a consumer in memory opens again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import NodeNotReadyError
from aiokafka.structs import ConsumerRecord, TopicPartition
from structlog.testing import capture_logs

from schemas.codec import decode
from schemas.messages import HomeState
from streams.engine import log_check as module
from streams.engine.commit import CommitFailed
from streams.engine.engine import Engine
from streams.engine.fingerprint import Batches
from streams.engine.kept_offsets import KeptOffsets
from streams.engine.log_check import LogCheck
from streams.engine.log_identity import Identity
from streams.engine.partition_processor import Head, PartitionProcessor
from streams.rules.engine.start_offsets import KeptOffset
from tests.support.consuming import FakeConsumer
from tests.support.partition_fakes import FakeCommitter, FakeHandler, intake, partitions
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

TASKS = TopicPartition("t.tasks", 0)


class Rig:
    """A partition that has read 40 records of `tasks`, and what its brokers say of the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, exact_ends: bool = True) -> None:
        self.consumer = FakeConsumer()
        self.consumer.write(TASKS, 40)
        self.lost: list[CommitFailed] = []
        self.committer = FakeCommitter()
        self.kept = KeptOffsets("g", "state", lambda: 0)
        self.partition = PartitionProcessor(
            0, self.committer, partitions(), on_room=lambda _: None,
            on_lost=lambda _, error: self.lost.append(error), kept=self.kept,
        )  # fmt: skip
        known = KeptOffset(0, topic_id="aa", epoch=3)
        self.partition.open({source: Head(0, "", True, None, known) for source in partitions()}, FakeHandler())
        self.texts = {offset: b"old" for offset in range(40)}
        self.read(40)
        self.logs = dict.fromkeys(partitions().values(), Identity("aa", 3))
        self.cuts: dict[TopicPartition, int] = {}
        self.asked: list[dict[TopicPartition, int]] = []
        self.engine = SimpleNamespace(
            config=SimpleNamespace(exact_ends=exact_ends),
            processors={0: self.partition},
            consumer=self.consumer,
            log_changes=0,
        )
        self.silent = False
        self.check = LogCheck(cast("Engine", self.engine), 1.0, self._read_again)
        monkeypatch.setattr(module, "identities", self._identities)
        monkeypatch.setattr(module, "epoch_ends", self._epoch_ends)

    async def _identities(self, consumer: Any, topics: Any) -> dict[TopicPartition, Identity]:
        return self.logs

    async def _epoch_ends(self, consumer: Any, epochs: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        self.asked.append(dict(epochs))
        return {tp: self.cuts[tp] for tp in epochs if tp in self.cuts}

    async def _read_again(self, source: str, number: int, offsets: Sequence[int]) -> dict[int, ConsumerRecord]:
        if self.silent:
            raise TimeoutError
        assert (source, number) == ("tasks", 0)
        return {offset: intake(offset, self.texts[offset]) for offset in offsets if offset in self.texts}

    def read(self, end: int, handed_over: int | None = None) -> None:
        """Records to `end` come; the first `handed_over` of the log are taken."""
        ledger = self.partition.ledgers["tasks"]
        self.partition.arrived("tasks", [intake(offset, self.texts[offset]) for offset in range(ledger.next, end)])
        for offset in range(ledger.next, end if handed_over is None else handed_over):
            ledger.track(offset)

    def replace(self, begin: int, end: int) -> None:
        """The log lost what lay behind `begin`; other records lie there now, up to `end`."""
        self.shorten(begin)
        self.consumer.write(TASKS, end - begin)
        self.texts = {offset: b"old" for offset in range(begin)} | dict.fromkeys(range(begin, end), b"new")
        self.logs[TASKS], self.cuts[TASKS] = Identity("aa", 4), begin

    def shorten(self, end: int) -> None:
        """The log ends there now."""
        del self.consumer.logs[TASKS][end:]

    async def look(self) -> str | None:
        """Why the partition was given up at this look, if it was."""
        before = len(self.lost)
        await self.check.look()
        assert self.engine.log_changes == len(self.lost)
        return str(self.lost[-1]) if len(self.lost) > before else None


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """One, closed at the end."""
    one = Rig(monkeypatch)
    yield one
    await one.partition.close()


async def test_a_log_that_stays_is_left_alone_and_what_it_held_is_kept(rig: Rig) -> None:
    """Its state record says up to where it was checked, also if nothing else is committed."""
    for _ in range(3):
        assert await rig.look() is None
    assert rig.partition.logs["tasks"] == KeptOffset(0, "", "aa", 3, checked=40)
    await until(lambda: rig.committer.commits)
    [output] = rig.committer.commits[-1][0]
    assert decode(HomeState, output.value).app == "g"
    assert rig.kept.read([output.value or b""])["tasks"] == KeptOffset(0, "", "aa", 3, 40)


async def test_a_topic_made_anew_is_noticed_however_long_it_is(rig: Rig) -> None:
    """By its id."""
    rig.logs[TASKS] = Identity("bb", 0)
    assert "the topic was recreated" in (await rig.look() or "")
    assert rig.partition.closed
    assert rig.lost[0].transient


async def test_a_log_that_lost_its_end_is_noticed_though_it_grew_again(rig: Rig) -> None:
    """By where the epoch that was known ends in it now."""
    await rig.look()
    rig.logs[TASKS], rig.cuts[TASKS] = Identity("aa", 4), 20
    assert "the log was truncated at 20" in (await rig.look() or "")
    assert rig.asked[-1] == {TASKS: 3}


async def test_what_was_read_since_the_last_look_counts_too(rig: Rig) -> None:
    """It was read from the old log, and its offsets were given to other records since."""
    rig.replace(20, 60)
    assert "the log was truncated at 20" in (await rig.look() or "")
    assert rig.partition.logs["tasks"].checked == 40, "so that it begins again at 20"


async def test_a_record_that_is_gone_was_lost(rig: Rig) -> None:
    """The new log is longer than what was read, but holds nothing at that offset."""
    rig.replace(20, 60)
    del rig.texts[39]
    assert "the log was truncated at 20" in (await rig.look() or "")


async def test_what_lies_in_the_inbox_was_read_too(rig: Rig) -> None:
    """Three records came from the old log and were not handed over when it lost its end."""
    await rig.look()
    rig.consumer.write(TASKS, 3)
    rig.texts |= dict.fromkeys(range(40, 43), b"old")
    rig.read(43, handed_over=40)
    rig.replace(41, 60)
    assert "the log was truncated at 41" in (await rig.look() or "")
    assert rig.partition.logs["tasks"].checked == 43


async def test_a_record_beyond_the_end_of_the_new_log_was_lost(rig: Rig) -> None:
    """There is nothing to compare: the leader that is there now never gave it out."""
    rig.replace(20, 30)
    assert "the log was truncated at 20" in (await rig.look() or "")
    assert rig.partition.logs["tasks"].checked == 40


async def test_records_of_the_new_log_do_not_hide_those_that_were_read_before(rig: Rig) -> None:
    """The log lost its end, grew, and was read on behind what had been read: the newest record is the one that lies there."""
    rig.replace(20, 60)
    rig.read(60)
    assert "the log was truncated at 20" in (await rig.look() or "")
    assert rig.partition.logs["tasks"].checked == 60


async def test_too_many_batches_to_remember_count_as_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are read again are known by their ids."""
    monkeypatch.setattr(Batches, "MOST", 2)
    await rig.look()
    for end in (42, 44, 46):
        rig.consumer.write(TASKS, 2)
        rig.texts |= dict.fromkeys(range(end - 2, end), b"new")
        rig.read(end)
    rig.logs[TASKS], rig.cuts[TASKS] = Identity("aa", 4), 41
    assert "the log was truncated at 41" in (await rig.look() or "")


async def test_records_of_another_leader_are_no_change(rig: Rig) -> None:
    """They came since the last look and lie in the log as they were read: nothing is read again."""
    rig.consumer.write(TASKS, 20)
    rig.logs[TASKS], rig.cuts[TASKS] = Identity("aa", 4), 30
    assert await rig.look() is None
    assert rig.partition.logs["tasks"] == KeptOffset(0, "", "aa", 4, checked=40)


async def test_records_that_cannot_be_compared_are_compared_at_the_next_look(rig: Rig) -> None:
    """Until then the old epoch is the one that counts."""
    rig.replace(20, 60)
    rig.silent = True
    assert await rig.look() is None
    assert rig.partition.logs["tasks"] == KeptOffset(0, "", "aa", 3, checked=0)
    rig.silent = False
    assert "the log was truncated at 20" in (await rig.look() or "")


async def test_another_leader_with_the_whole_log_is_no_change(rig: Rig) -> None:
    """Its epoch is the one to ask about once a record of it came: what is on its way may be the old leader's."""
    await rig.look()
    rig.logs[TASKS] = Identity("aa", 4)
    assert await rig.look() is None
    assert rig.partition.logs["tasks"].epoch == 3, "nobody said yet where epoch 3 ends"
    rig.cuts[TASKS] = 40
    assert await rig.look() is None
    assert rig.partition.logs["tasks"].epoch == 3, "nothing of epoch 4 came yet"
    rig.consumer.write(TASKS, 1)
    rig.texts[40] = b"new"
    rig.read(41)
    assert await rig.look() is None
    assert rig.partition.logs["tasks"] == KeptOffset(0, "", "aa", 4, checked=41)


async def test_an_end_before_what_was_read_is_believed_the_second_time(rig: Rig) -> None:
    """A new leader may not know its end at once. Where brokers know neither ids nor epochs this is all there is."""
    rig.logs.clear()
    await rig.look()
    rig.shorten(30)
    assert await rig.look() is None
    assert "ends at 30" in (await rig.look() or "")


async def test_a_short_end_that_passes_is_no_change(rig: Rig) -> None:
    """The next look starts counting again."""
    rig.logs.clear()
    for _ in range(3):
        rig.shorten(30)
        assert await rig.look() is None
        rig.consumer.write(TASKS, 10)
        assert await rig.look() is None


async def test_brokers_that_do_not_answer_change_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do ends that are not exact."""

    async def silent(tps: object) -> Any:
        raise NodeNotReadyError

    monkeypatch.setattr(rig.consumer, "end_offsets", silent)
    with capture_logs() as logs:
        for _ in range(3):
            assert await rig.look() is None
    assert [(entry["log_level"], entry["looks"]) for entry in logs] == [("warning", 3)]
    rig.engine.config.exact_ends = False
    monkeypatch.undo()
    rig.shorten(30)
    for _ in range(3):
        assert await rig.look() is None
