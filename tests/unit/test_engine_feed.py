"""The engine with a consumer in memory: opening, feeding, back-pressure, and coming back from being fenced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    InvalidSessionTimeoutError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from schemas.topics import INTAKE
from streams.engine import engine as engine_module
from streams.engine import feed as feed_module
from streams.engine import group as group_module
from streams.engine import growth_watch
from streams.engine.commit import Collect, CommitFailed
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.partition_processor import PartitionProcessor
from streams.rules.engine import ledger, offset_map, starts
from streams.rules.records import Output
from tests.support.consuming import FakeConsumer
from tests.support.partition_fakes import FakeCommitter, FakeHandler
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


def tps(*numbers: int) -> list[TopicPartition]:
    """The intake of these partition numbers."""
    return [TopicPartition(f"t.{source}", number) for number in numbers for source in INTAKE]


TASKS = TopicPartition("t.tasks", 0)


class StoringCommitter(FakeCommitter):
    """What it commits the group has."""

    def __init__(self, consumer: FakeConsumer, interval_max_s: float) -> None:
        super().__init__(interval_max_s=interval_max_s)
        self._consumer = consumer

    async def commit(self, collect: Collect) -> None:
        """As scripted, then stored."""
        known = len(self.commits)
        await super().commit(collect)
        for _, offsets in self.commits[known:]:
            self._consumer.store(offsets)


class Rig:
    """An engine whose partitions get a fake committer and a fake handler each, newest last."""

    def __init__(self, *, commit_interval_max_s: float = 0.005, **fields: Any) -> None:
        self._interval_max_s = commit_interval_max_s
        self.consumer = FakeConsumer()
        self.committers: list[StoringCommitter] = []
        self.handlers: list[FakeHandler] = []
        self.prepare: Callable[[StoringCommitter], None] = lambda committer: None
        config: dict[str, Any] = {
            "options": {}, "prefix": "t.", "group": "g", "sources": INTAKE, "instance_id": None,
            "session_timeout_s": 0.04, "drain_timeout_s": 1.0,
            "stop_timeout_s": 1.0,
            "state": None, "exact_ends": True,
        }  # fmt: skip
        self.states: list[list[bytes]] = []
        """What each handler was given."""
        self.engine = Engine(
            config=EngineConfig(**(config | fields)), make_committer=self._committer, make_handler=self._handler,
            outlasting=lambda handler: [b"of %d" % self.handlers.index(handler)],
        )  # fmt: skip

    def _committer(self, number: int, consumer: Any) -> StoringCommitter:
        self.committers.append(StoringCommitter(self.consumer, self._interval_max_s))
        self.prepare(self.committers[-1])
        return self.committers[-1]

    def _handler(self, partition: PartitionProcessor, state: list[bytes]) -> FakeHandler:
        self.handlers.append(FakeHandler())
        self.states.append(state)
        return self.handlers[-1]

    @property
    def handler(self) -> FakeHandler:
        """The newest."""
        return self.handlers[-1]

    @property
    def taken(self) -> list[int]:
        """Offsets of `tasks` the newest handler took."""
        return [offset for source, offset in self.handler.taken if source == "tasks"]

    def finish(self, *offsets: int, number: int = 0, source: str = "tasks") -> None:
        """End these records, with one output each."""
        for offset in offsets:
            self.engine.processors[number].complete(source, offset, [Output("results", str(offset).encode(), b"")])

    def committed(self, tp: TopicPartition = TASKS) -> int:
        """The group's offset; -1 before the first commit."""
        return self.consumer.stored[tp].offset if tp in self.consumer.stored else -1

    async def ready(self, *numbers: int) -> None:
        """Assign and wait until every partition is open."""
        await self.consumer.assign(*tps(*(numbers or (0,))))
        await until(lambda: self.engine.ready)


MakeRig = Callable[..., Any]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeRig]:
    """Makes rigs that are started, and stops them."""
    made: list[Rig] = []
    monkeypatch.setattr(starts, "RESTART_PAUSE_S", 0.005)
    monkeypatch.setattr(starts, "MAX_REOPEN_PAUSE_S", 0.05)
    monkeypatch.setattr(feed_module, "POLL_MS", 20)

    async def make(**fields: Any) -> Rig:
        one = Rig(**fields)
        made.append(one)
        monkeypatch.setattr(group_module, "AIOKafkaConsumer", lambda **options: one.consumer)
        await one.engine.start()
        return one

    yield make
    for one in made:
        await one.engine.stop()
        await settle()


async def test_what_nobody_misses_begins_at_its_end_if_the_group_never_committed(rig: MakeRig) -> None:
    """Here `dispatch`; what comes while the partition is being opened is taken, and the place is committed at once."""
    one = await rig(from_end=lambda kept: ("dispatch",))
    late = TopicPartition("t.dispatch", 0)
    one.consumer.write(TASKS, 3)
    one.consumer.write(late, 4)

    async def while_it_reads(partition: PartitionProcessor) -> list[bytes]:
        one.consumer.write(late, 2)
        return []

    one.engine._opener._remembered = while_it_reads
    await one.ready()
    assert await settled(one, "dispatch") == [4, 5], "after the end there was before what is remembered was read"
    assert one.taken == [0, 1, 2]
    await until(lambda: one.committed(late) == 4 and one.committed() == 0)


async def test_added_partitions_are_asked_for_until_they_are_dealt_out(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all topics have them, and once in a while only; the count is the leader's, not this worker's own."""
    monkeypatch.setattr(growth_watch, "CHECK_S", 0.05)
    monkeypatch.setattr(growth_watch, "PATIENCE_S", 1.0)
    one = await rig()
    asked: list[int] = []
    counts = {"t.tasks": 2, "t.dispatch": 1, "t.parked": 1}
    one.consumer.partitions_for_topic = lambda topic: set(range(counts[topic]))
    one.consumer.request_rejoin = lambda: asked.append(one.engine.partition_count)
    await one.ready()
    assert one.engine.partition_count == 1
    await asyncio.sleep(0.5)
    assert asked == []
    counts.update(dict.fromkeys(counts, 2))
    await asyncio.sleep(0.5)
    assert asked == [1]
    await asyncio.sleep(1.0)
    assert asked == [1, 1]
    assert one.engine.config.assignor.metadata(["t.tasks"]).user_data == b"\n2"
    one.engine.config.assignor.partitions = 2
    await one.consumer.assign(*tps(0, 1))
    assert one.engine.partition_count == 2
    await asyncio.sleep(2.0)
    assert asked == [1, 1]


async def test_a_consumer_that_is_given_up_is_counted(rig: MakeRig) -> None:
    """The engine goes on with another one."""
    one = await rig()
    await one.ready()
    assert one.engine.renewals == 0
    await one.engine.renew()
    await one.ready()
    assert one.engine.renewals == 1


async def test_a_home_is_told_of_wishes_from_its_opening_on(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler has read what was asked by then; until the fetch loop lets it in, it would miss what is asked meanwhile."""
    one = await rig()
    admit = one.engine._admit
    monkeypatch.setattr(one.engine, "_admit", lambda: None)
    await one.consumer.assign(*tps(0))
    await settle()  # no time passes: the fetch loop turns without a pause as long as somebody waits to be let in
    assert one.engine.processors == {}
    assert [partition.handler for partition in one.engine.opened] == [one.handler]
    monkeypatch.setattr(one.engine, "_admit", admit)
    await until(lambda: one.engine.ready)
    assert [partition.handler for partition in one.engine.opened] == [one.handler]


async def test_an_added_partition_is_read_from_its_beginning(rig: MakeRig) -> None:
    """What lies there may be for a plan that another partition has by now."""
    one = await rig(from_end=lambda kept: ("dispatch",))
    late = TopicPartition("t.dispatch", 0)
    one.consumer.write(late, 4)

    async def added(partition: PartitionProcessor) -> list[bytes]:
        partition.is_added = True
        return []

    one.engine._opener._remembered = added
    await one.ready()
    assert await settled(one, "dispatch") == [0, 1, 2, 3]


@pytest.mark.parametrize("why", ["remembered", "committed", "made anew"])
async def test_it_begins_where_it_always_did_otherwise(rig: MakeRig, why: str) -> None:
    """Something is remembered that may wait for it; or the group committed; or the topic was recreated."""
    asked: list[list[bytes]] = []

    def from_end(kept: Any) -> tuple[str, ...]:
        asked.append(kept)
        return () if why == "remembered" else ("dispatch",)

    one = await rig(from_end=from_end)
    late = TopicPartition("t.dispatch", 0)
    one.consumer.write(late, 4)
    if why != "remembered":
        one.consumer.store({late: OffsetAndMetadata(1 if why == "committed" else 9, "")})
    one.engine._opener._remembered = lambda partition: asyncio.sleep(0, [b"kept"])
    await one.ready()
    assert await settled(one, "dispatch") == ([1, 2, 3] if why == "committed" else [0, 1, 2, 3])
    assert asked == [[b"kept"]]


async def settled(one: Any, source: str) -> list[int]:
    """Offsets of a topic that the handler took, once no more come."""
    before = -1
    while before != len(one.handler.taken):
        before = len(one.handler.taken)
        await asyncio.sleep(0.1)
    return [offset for name, offset in one.handler.taken if name == source]


async def test_nothing_is_fetched_until_the_partition_is_open_and_nothing_is_lost(rig: MakeRig) -> None:
    """Paused from the assignment on, then sought to what is committed: records before, during and after come in order."""
    one = await rig()
    one.consumer.write(TASKS, 5)
    one.consumer.store({TASKS: OffsetAndMetadata(2, "")})
    gate = asyncio.Event()

    async def slowly() -> None:
        await gate.wait()

    one.prepare = lambda committer: setattr(committer, "start", slowly)
    await one.consumer.assign(*tps(0))
    assert one.consumer.paused == set(tps(0))
    one.consumer.write(TASKS, 3)
    await asyncio.sleep(0.02)
    assert one.consumer.polls == 0
    assert not one.engine.ready
    gate.set()
    await until(lambda: one.engine.ready)
    one.consumer.write(TASKS, 2)
    await until(lambda: len(one.taken) >= 8)
    assert one.taken == list(range(2, 10))
    assert one.consumer.paused == set()


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


async def test_a_fenced_partition_is_opened_again_from_what_is_committed(rig: MakeRig) -> None:
    """Committed work is not done again, the rest is, by a new partition with a new committer."""
    one = await rig()
    one.consumer.write(TASKS, 6)
    await one.ready()
    await until(lambda: len(one.taken) == 6)
    one.finish(0, 1, 2)
    await until(lambda: one.committed() == 3)
    one.committers[-1].script.append(CommitFailed("somebody else"))
    one.finish(3, 4)
    await until(lambda: len(one.handlers) == 2)
    assert one.handlers[0].closed
    assert one.committers[0].closed
    await until(lambda: len(one.taken) == 3 and one.engine.ready)
    assert one.taken == [3, 4, 5]
    one.finish(3, 4, 5)
    await until(lambda: one.committed() == 6)
    written = [output.key for committer in one.committers for outputs, _ in committer.commits for output in outputs]
    assert sorted(written) == [str(offset).encode() for offset in range(6)]


@pytest.mark.parametrize("how", ["commit failed", "log changed", "group moved on", "group moves on"])
async def test_what_outlasts_a_handler_without_its_last_commit_goes_to_the_next(rig: MakeRig, how: str) -> None:
    """Its agents were called, whatever was committed. After a rebalance another owner may know more."""
    one = await rig()
    one.consumer.write(TASKS, 1)
    await one.ready()
    await until(lambda: len(one.taken) == 1)
    if how == "log changed":
        one.engine.processors[0].lose("the topic was made anew")
    else:
        one.committers[-1].script.append(CommitFailed("no member", transient=True))
        one.finish(0)
    if how == "group moved on":
        await until(lambda: 0 not in one.engine.processors)
    if how.startswith("group"):
        await one.consumer.revoke()
        await settle()
        await one.ready()
    await until(lambda: len(one.handlers) == 2 and one.engine.ready)
    assert one.states == [[], [] if how.startswith("group") else [b"of 0"]]
    await one.consumer.revoke()
    await one.ready()
    assert one.states[2] == [], "the second one ended cleanly: what it did lies on the state topic"


@pytest.mark.parametrize("stays", [True, False])
async def test_of_two_workers_with_one_name_that_stays_which_has_it_in_the_first_group(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Each was replaced by the other in one of its groups: both would end."""
    first, second = await rig(), await rig(instance_id="w")
    second.engine.arbiter = first.engine
    taken = [second.consumer] if stays else [first.consumer, second.consumer]

    async def is_taken(consumer: Any) -> bool:
        return consumer in taken

    monkeypatch.setattr(engine_module, "is_taken", is_taken)
    assert await second.engine._replaced(second.consumer) is not stays
    failed = asyncio.ensure_future(second.engine.failed())
    await settle()
    assert failed.done() is not stays
    if stays:
        failed.cancel()
    else:
        assert "--instance-id" in str(failed.exception())
        assert not await second.engine.has_name(), "it decides nothing any more"


async def test_a_fenced_processor_of_a_partition_that_went_elsewhere_stays_closed(rig: MakeRig) -> None:
    """The rebalance that follows takes the partition away: nobody opens it here."""
    one = await rig(session_timeout_s=0.2)
    await one.ready(0, 1)
    one.consumer.write(TASKS, 1)
    await until(lambda: any(handler.taken for handler in one.handlers))
    one.committers[0].script.append(CommitFailed("somebody else"))
    one.finish(0)
    await until(lambda: 0 not in one.engine.processors)
    await one.consumer.revoke()
    await one.ready(1)
    await asyncio.sleep(0.1)
    assert set(one.engine.processors) == {1}
    assert len(one.committers) == 3


async def failed(one: Any) -> bool:
    """Whether the engine has met what it cannot mend. It then says so at once."""
    task = asyncio.create_task(one.engine.failed())
    ended, _ = await asyncio.wait((task,), timeout=0.001)
    task.cancel()
    return bool(ended and task.exception())


async def test_opening_is_tried_again(rig: MakeRig) -> None:
    """Each try with a committer of its own; those that failed are closed."""
    one = await rig()
    errors = [KafkaError("away"), TimeoutError()]

    def prepare(committer: StoringCommitter) -> None:
        if errors:
            committer.start_errors.append(errors.pop())

    one.prepare = prepare
    await one.ready()
    assert [committer.closed for committer in one.committers] == [1, 1, 0]


async def test_what_cannot_be_opened_at_all_fails_the_engine(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of tries, and `failed` says which partition it was."""
    monkeypatch.setattr(starts, "START_TRIES", 2)
    one = await rig()
    one.prepare = lambda committer: committer.start_errors.append(TransactionalIdAuthorizationFailed())
    await one.consumer.assign(*tps(3))
    with pytest.raises(
        RuntimeError, match="partition 3 could not be opened in 2 tries: Kafka refuses access to transactional id;"
    ):
        await asyncio.wait_for(one.engine.failed(), 5)


async def test_brokers_that_are_away_are_waited_for(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often they do not answer, at a start or at a commit, the engine goes on."""
    monkeypatch.setattr(starts, "START_TRIES", 2)
    monkeypatch.setattr(starts, "MAX_LOSSES", 2)
    monkeypatch.setattr(starts, "MAX_START_PAUSE_S", 0.005)
    monkeypatch.setattr(starts, "MAX_REOPEN_PAUSE_S", 0.005)
    one = await rig()
    errors = [NodeNotReadyError(), TimeoutError(), KafkaError("it broke")] * 3

    def prepare(committer: StoringCommitter) -> None:
        if errors:
            committer.start_errors.append(errors.pop())
        elif len(one.committers) < 15:
            committer.script.append(CommitFailed("no replicas", transient=True))

    one.prepare = prepare
    one.consumer.write(TASKS, 1)
    await one.ready()
    await until(lambda: len(one.committers) == 15)
    await until(lambda: one.engine.ready and one.taken)
    one.finish(0)
    await until(lambda: one.committed() == 1)
    assert not await failed(one)


async def test_a_bug_while_opening_fails_the_engine(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that stays shut without a word would be waited for, for ever."""
    one = await rig()
    monkeypatch.setattr(one.consumer, "fetch_committed_offsets", None)
    await one.consumer.assign(*tps(0))
    with pytest.raises(TypeError):
        await asyncio.wait_for(one.engine.failed(), 5)
    assert [committer.closed for committer in one.committers] == [1] * starts.BUG_TRIES


async def test_revoke_drains_and_commits_before_it_returns(rig: MakeRig) -> None:
    """The next owner reads what is committed the moment the callback ends."""
    one = await rig()
    one.consumer.write(TASKS, 3)
    await one.ready()
    await until(lambda: len(one.taken) == 3)
    one.handler.calls = 1
    partition = one.engine.processors[0]

    def end() -> None:
        partition.complete("tasks", 0, [])
        one.handlers[0].calls = 0

    asyncio.get_running_loop().call_later(0.02, end)
    await one.consumer.revoke()
    assert one.committed() == 1
    assert one.engine.processors == {}
    assert not one.engine.assigned.is_set()
    assert one.committers[0].closed == 1
    await one.ready()
    await until(lambda: one.taken == [1, 2])


async def test_revoked_while_opening(rig: MakeRig) -> None:
    """The half-open partition is closed, and is not let in later."""
    one = await rig()
    one.prepare = lambda committer: setattr(committer, "start", asyncio.Event().wait)
    await one.consumer.assign(*tps(0))
    await until(lambda: one.committers)
    await one.consumer.revoke()
    assert one.committers[0].closed == 1
    await settle()
    assert one.engine.processors == {}
    assert one.handlers == []


async def test_stop_drains_and_leaves(rig: MakeRig) -> None:
    """What is finished is committed, then the group is left; records not finished are nobody's loss."""
    one = await rig(commit_interval_max_s=30.0)
    one.consumer.write(TASKS, 20)
    await one.ready()
    await until(lambda: len(one.taken) == 20)
    one.finish(*range(10))
    await one.engine.stop()
    assert one.committed() == 10
    assert one.consumer.stopped == 1


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


@pytest.mark.parametrize(("exact", "head"), [(True, 0), (False, 50)])
async def test_a_committed_offset_beyond_the_log(rig: MakeRig, exact: bool, head: int) -> None:
    """The topic was made anew: from its beginning, if the broker's end offsets can be believed."""
    one = await rig(exact_ends=exact)
    one.consumer.write(TASKS, 3)
    one.consumer.store({TASKS: OffsetAndMetadata(50, "")})
    await one.ready()
    assert one.engine.processors[0].ledgers["tasks"].head == head


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


async def test_starts_without_a_commit_end_with_the_reason(rig: MakeRig) -> None:
    """A topic that may not be written, say: calling agents again and again for nothing must stop."""
    one = await rig()
    one.prepare = lambda committer: committer.script.extend([CommitFailed("not authorized")] * 3)
    one.consumer.write(TASKS, 1)
    await one.consumer.assign(*tps(0))
    with pytest.raises(RuntimeError, match="not authorized"):
        await asyncio.wait_for(one.engine.failed(), 10)
    assert len(one.committers) == starts.MAX_LOSSES


async def test_a_partition_lost_during_a_rebalance_is_not_opened_twice(rig: MakeRig) -> None:
    """Its reopening wakes when the next assignment's partition is open already: that one stays, and stays unpaused."""
    one = await rig(session_timeout_s=0.4)
    await one.ready()
    old = one.engine.processors[0]
    one.engine._restart(old, CommitFailed("lost while it was revoked"))
    await one.consumer.revoke()
    await one.ready()
    await asyncio.sleep(0.3)
    assert len(one.handlers) == 2
    assert not one.consumer.paused
    one.consumer.write(TASKS, 3)
    await until(lambda: one.taken == [0, 1, 2])


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


async def test_a_rebalance_during_a_stop_waits_for_the_drain(rig: MakeRig) -> None:
    """Else the group gives the partitions to another worker while calls of this one still run."""
    one = await rig()
    await one.ready(0)
    one.handler.calls = 1
    stopping = asyncio.create_task(one.engine.stop())
    await until(lambda: one.handler.held)
    revoking = asyncio.create_task(one.engine.on_partitions_revoked([]))
    await settle()
    assert not revoking.done()
    one.handler.calls = 0
    await asyncio.wait_for(revoking, 5)
    await asyncio.wait_for(stopping, 5)
    assert one.handler.closed


async def test_records_that_expired_while_no_worker_ran_are_counted_and_passed(rig: MakeRig) -> None:
    """The group had committed 3 of 10 when the first 8 were removed: five were never read, the rest comes."""
    one = await rig()
    one.consumer.write(TASKS, 10)
    one.consumer.store({TASKS: OffsetAndMetadata(3, "")})
    one.consumer.delete_records(TASKS, 8)
    await one.ready()
    await until(lambda: one.engine.expired.count(TASKS))
    assert one.engine.expired.by_topic == {"t.parked": 0, "t.dispatch": 0, "t.tasks": 5}
    await until(lambda: one.taken == [8, 9])
    assert one.committed() == 8


async def test_records_that_are_not_missed_do_not_expire(rig: MakeRig) -> None:
    """As results are not missed while no plan is under way. They are passed without a report."""
    one = await rig(from_end=lambda state: ["tasks"])
    one.consumer.write(TASKS, 10)
    one.consumer.store({TASKS: OffsetAndMetadata(3, "")})
    one.consumer.delete_records(TASKS, 8)
    await one.ready()
    await until(lambda: one.taken == [8, 9])
    await until(lambda: one.committed() == 8)
    assert one.engine.expired.count(TASKS) == 0
