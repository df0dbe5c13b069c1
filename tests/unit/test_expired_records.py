"""Records that are gone before they were worked on are counted once and reported with the commit that passes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from streams.engine.commit import CommitFailed
from streams.engine.expired_records import ExpiredRecords
from streams.engine.partition_processor import Head, PartitionProcessor
from streams.engine.position_resets import watch_resets
from streams.rules.engine import offset_map
from streams.rules.engine.ledger import Ledger
from streams.rules.records import Output, Recorder
from tests.support.partition_fakes import FakeCommitter, FakeHandler, intake, partitions
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

TASKS = TopicPartition("t.tasks", 0)
EARLIEST = -2


class Rig:
    """A partition, its committer, and what the engine counts."""

    def __init__(self, script: Iterable[BaseException | None] = (), expired: ExpiredRecords | None = None) -> None:
        self.committer = FakeCommitter(script)
        recorder = Recorder(app_id="app", processor="dispatch", prefix="t.", group="g")
        topics = [tp.topic for tp in partitions().values()]
        self.expired = expired or ExpiredRecords(topics, recorder.event, lambda: 0)
        self.lost: list[CommitFailed] = []
        self.partition = PartitionProcessor(
            0, self.committer, partitions(), on_room=lambda _: None,
            on_lost=lambda _, error: self.lost.append(error), expired=self.expired,
        )  # fmt: skip

    def open(self, head: int, begin: int, text: str = "") -> Rig:
        """`tasks` is committed up to `head`, and its log begins at `begin`."""
        heads = {source: Head(0, "", True) for source in partitions()}
        self.partition.open(heads | {"tasks": Head(head, text, True, begin=begin)}, FakeHandler())
        return self

    @property
    def ledger(self) -> Ledger:
        """Of `tasks`."""
        return self.partition.ledgers["tasks"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was committed of them."""
        outputs = [output for outputs, _ in self.committer.commits for output in outputs if output.topic == "events"]
        return [orjson.loads(output.value or b"") for output in outputs]

    @property
    def counted(self) -> int:
        """Of the topic, which is that of the partition."""
        assert self.expired.by_topic["t.tasks"] == self.expired.count(TASKS)
        return self.expired.by_topic["t.tasks"]


@pytest.fixture
async def rig() -> AsyncIterator[Callable[..., Rig]]:
    """Makes rigs and closes them."""
    made: list[Rig] = []

    def make(*given: Any, **named: Any) -> Rig:
        made.append(Rig(*given, **named))
        return made[-1]

    yield make
    for one in made:
        await one.partition.close()


MakeRig = Callable[..., Rig]


async def test_unread_records_that_are_gone_at_the_start_are_reported_in_the_commit_that_passes_them(
    rig: MakeRig,
) -> None:
    """In the log, the count and one event. Who opens the partition after that finds nothing missing."""
    one = rig()
    with capture_logs() as logs:
        one.open(10, begin=30)
        assert one.counted == 0, "not before the commit"
        await until(lambda: one.counted)
    assert one.counted == 20
    assert one.committer.last() == (30, "")
    [(outputs, offsets)] = [commit for commit in one.committer.commits if TASKS in commit[1]]
    assert [output.topic for output in outputs] == ["events"]
    assert offsets[TASKS].offset == 30
    [event] = one.events
    assert event["type"] == "records:expired"
    assert event["data"] == {"topic": "t.tasks", "partition": 0, "first": 10, "last": 29, "count": 20}
    [line] = [line for line in logs if "expired" in line["event"]]
    assert (line["log_level"], line["topic"], line["partition"], line["at_most"]) == ("error", "t.tasks", 0, 20)
    assert "retention.ms" in line["event"]
    again = rig(expired=one.expired).open(30, begin=30)
    await settle()
    assert (again.counted, again.events) == (20, [])


async def test_what_is_done_beyond_the_commit_is_no_loss(rig: MakeRig) -> None:
    """Its results are written."""
    text = offset_map.encode("t.tasks", 0, 10, [(11, 25), (28, 40)])
    one = rig().open(10, begin=30, text=text)
    await until(lambda: one.counted)
    assert one.counted == 3, "10, 26 and 27"
    assert one.committer.last() == (41, "")


async def test_a_log_that_begins_before_the_commit_lost_nothing_unread(rig: MakeRig) -> None:
    """As every log does after a week."""
    one = rig().open(30, begin=30)
    other = rig().open(30, begin=7)
    await settle()
    assert (one.counted, other.counted, one.events + other.events) == (0, 0, [])


async def test_a_commit_that_fails_counts_nothing(rig: MakeRig) -> None:
    """The next owner finds the same loss: it is counted once."""
    one = rig([CommitFailed("fenced")]).open(10, begin=30)
    await until(lambda: one.lost)
    assert (one.counted, one.events) == (0, [])
    again = rig(expired=one.expired).open(10, begin=30)
    await until(lambda: again.counted)
    assert (again.counted, len(again.events)) == (20, 1)


async def test_a_loss_behind_work_in_flight_is_counted_once_though_the_commit_stays_before_it(rig: MakeRig) -> None:
    """The offset map says that it is done. What is in flight or in the inbox ends normally."""
    one = rig().open(0, begin=0)
    assert one.ledger.track(0)
    one.partition.arrived("tasks", [intake(1), intake(2)])
    one.partition.expire("tasks", 3, 20)
    await until(lambda: one.counted)
    assert one.counted == 17
    head, text = one.committer.last() or (0, "")
    assert head == 0
    again = rig(expired=one.expired).open(head, begin=20, text=text)
    await until(lambda: again.counted > 17)
    assert again.counted == 20, "the three before it are gone too, for the next owner"
    for record in one.partition.inboxes["tasks"]:
        assert one.ledger.track(record.offset)
    assert one.ledger.next == 20
    for offset in range(3):
        one.partition.complete("tasks", offset, [Output("results", b"k", b"v")])
    await until(lambda: one.committer.last() == (20, ""))


async def test_tasks_that_are_gone_when_it_is_their_turn_are_one_line_and_one_event(rig: MakeRig) -> None:
    """Each is finished; those of one commit are reported together."""
    one = rig().open(0, begin=0)
    for offset in range(6):
        assert one.ledger.track(offset)
    with capture_logs() as logs:
        for offset in (1, 2, 4):
            one.partition.complete_expired("tasks", offset)
        await until(lambda: one.counted)
    assert one.counted == 3
    assert [event["data"]["count"] for event in one.events] == [3]
    assert len([line for line in logs if "expired" in line["event"]]) == 1
    assert one.ledger.in_flight == 3
    one.partition.lose("the log is another one")
    one.partition.complete_expired("tasks", 5)
    one.partition.expire("tasks", 6, 9)
    one.partition.touch()
    await asyncio.sleep(0.1)  # the commit loop is not ended yet
    assert one.counted == 3, "its offsets are not committed any more"


def watched(position: int) -> tuple[Any, list[tuple[int, int]]]:
    """aiokafka's own state of a partition at this position, and what is reported of it."""
    subscriptions, found = SubscriptionState(), list[tuple[int, int]]()
    subscriptions.assign_from_user([TASKS])
    state = subscriptions.subscription.assignment.state_value(TASKS)
    state.seek(position)
    consumer = cast("Any", SimpleNamespace(_subscription=subscriptions))
    for _ in range(2):  # a partition that is opened again is watched again
        watch_resets(consumer, TASKS, lambda first, end: found.append((first, end)))
    return state, found


async def test_a_position_that_was_removed_is_reported_with_where_it_continues() -> None:
    """As aiokafka does it when the broker answers that the offset is out of range."""
    state, found = watched(10)
    state.await_reset(EARLIEST)
    assert not state.has_valid_position
    state.reset_to(30)
    assert state.position == 30
    assert found == [(10, 30)]


async def test_gaps_seeks_and_logs_that_lost_their_end_are_no_removal() -> None:
    """Compaction and transaction markers move the position forward without a reset; a reset may lead back."""
    state, found = watched(10)
    state.consumed_to(25)
    state.seek(40)
    state.await_reset(EARLIEST)
    state.reset_to(3)
    state.await_reset(EARLIEST)
    state.seek(5)
    assert found == []


def test_runs_that_touch_what_expired_become_one() -> None:
    """An offset map holds runs that do not touch."""
    ledger = Ledger(0, [(2, 3), (6, 8), (20, 20)])
    assert (ledger.expire(4, 6), ledger.runs()) == (2, [(2, 8), (20, 20)])


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=5),
    st.lists(st.tuples(st.sampled_from(["track", "done", "expire"]), st.integers(0, 12)), max_size=20),
)
def test_each_offset_expires_once_and_only_if_it_was_neither_taken_nor_done(
    head: int, skips: list[tuple[int, int]], steps: list[tuple[str, int]]
) -> None:
    """Against sets of offsets."""
    runs, at = [], head
    for skip, length in skips:
        runs.append((at + skip, at + skip + length - 1))
        at += skip + length
    ledger = Ledger(head, runs)
    done = {offset for first, last in runs for offset in range(first, last + 1)}
    in_flight: set[int] = set()
    position = head
    for step, number in steps:
        if step == "track":
            if ledger.track(position):
                assert position not in done
                in_flight.add(position)
            else:
                assert position in done
            position += 1
        elif step == "done" and in_flight:
            offset = sorted(in_flight)[number % len(in_flight)]
            ledger.done(offset)
            in_flight.discard(offset)
            done.add(offset)
        elif step == "expire":  # the position may be ahead of what was tracked: the rest lies in an inbox
            first, end = position + number % 3, position + number
            gone = set(range(first, end)) - done
            assert ledger.expire(first, end) == len(gone)
            done |= gone
    assert ledger.in_flight == len(in_flight)
    held = {offset for first, last in ledger.runs() for offset in range(first, last + 1)}
    assert held == {offset for offset in done if offset >= ledger.head}
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(ledger.runs()))
