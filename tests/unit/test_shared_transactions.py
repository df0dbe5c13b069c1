"""Transactions that partitions share: what goes along, what is run again, and who hears of a failure. The broker is scripted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.engine import shared_transactions as module
from streams.engine.commit import Commit, CommitFailed
from streams.engine.left_open import FIRST_S
from streams.engine.membership import Membership
from streams.engine.shared_transactions import PartitionCommitter, SharedTransactions
from streams.rules.records import Output
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

TP = TopicPartition("t.tasks", 0)


class Transactor:
    """`script`: what the next transactions raise; None lets one through. `poison`: partitions that never get through."""

    def __init__(self) -> None:
        self.script: deque[BaseException | None] = deque()
        self.start_errors: deque[KafkaError] = deque()
        self.poison: set[int] = set()
        self.began: list[tuple[list[int], Membership]] = []
        self.committed: list[list[int]] = []
        self.starts = 0
        self.running = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[set[int]] = []
        self.answers: deque[bool] = deque()
        self.end_asked = False
        self.hangs: set[int] = set()
        self.closed = False

    async def start(self) -> None:
        """As scripted."""
        assert not self.running, "a new epoch under a running transaction"
        self.starts += 1
        if self.start_errors:
            raise self.start_errors.popleft()

    async def run(self, commits: Sequence[Commit], member: Membership) -> None:
        """As scripted, once the gate is open."""
        numbers = [commit.number for commit in commits]
        self.began.append((numbers, member))
        self.running = True
        try:
            await self.gate.wait()
            if self.hangs.intersection(numbers):
                await asyncio.sleep(3600)
        finally:
            self.running = False
        if self.poison.intersection(numbers):
            raise CommitFailed("too large", again=True)
        if self.script and (error := self.script.popleft()) is not None:
            raise error
        self.committed.append(numbers)

    async def end_left_open(self, numbers: Collection[int], consumer: Any) -> bool:
        """Note it; the answer is scripted."""
        self.asked.append(set(numbers))
        return self.answers.popleft() if self.answers else True

    async def close(self) -> None:
        """Note it."""
        self.closed = True


class Rig:
    """Partitions of one worker. `generation`: that of the group."""

    def __init__(self) -> None:
        self.transactor = Transactor()
        self.generation, self.current = 1, True
        self.transactions = SharedTransactions(self.transactor, 0.01, lambda: self.current)

    @property
    def consumer(self) -> Any:
        """As far as its membership is looked at."""
        return SimpleNamespace(
            _coordinator=SimpleNamespace(generation=self.generation, member_id="m", _group_instance_id=None)
        )

    async def open(self, number: int) -> PartitionCommitter:
        """Its committer, started."""
        committer = self.transactions.partition(number, self.consumer)
        await committer.start()
        return committer


def ready(number: int, size: int = 1) -> Callable[[], Commit | None]:
    """Something to commit."""
    return lambda: Commit(number, [Output("results", b"k", b"v")], {}, size)


def failed(*, transient: bool, again: bool) -> CommitFailed:
    """As a transactor says it."""
    return CommitFailed("scripted", transient, again=again)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """One worker."""
    made = Rig()
    yield made
    await made.transactions.close()
    assert made.transactor.closed


async def all_commit(rig: Rig, *numbers: int) -> list[BaseException | None]:
    """What becomes of a commit of each of these partitions, all at once."""
    committers = [await rig.open(number) for number in numbers]
    return await asyncio.gather(
        *(one.commit(ready(number)) for one, number in zip(committers, numbers, strict=True)), return_exceptions=True
    )


async def test_what_is_ready_in_any_partition_goes_along(rig: Rig) -> None:
    """One producer epoch, one transaction."""
    assert await all_commit(rig, 0, 1, 2) == [None, None, None]
    assert rig.transactor.committed == [[0, 1, 2]]
    assert rig.transactor.starts == 1


async def test_a_partition_collects_when_the_transaction_begins(rig: Rig) -> None:
    """What finishes while another transaction runs is not too late for the next."""
    first, second = await rig.open(0), await rig.open(1)
    rig.transactor.gate.clear()
    running = asyncio.ensure_future(first.commit(ready(0)))
    await until(lambda: rig.transactor.began)
    collected: list[str] = []
    waiting = asyncio.ensure_future(second.commit(lambda: collected.append("now") or ready(1)()))  # type: ignore[func-returns-value]
    await settle(20)
    assert collected == []
    rig.transactor.gate.set()
    await asyncio.gather(running, waiting)
    assert collected == ["now"]
    assert rig.transactor.committed == [[0], [1]]


async def test_a_partition_with_nothing_to_say_needs_no_transaction(rig: Rig) -> None:
    """It is told at once."""
    committer = await rig.open(0)
    await committer.commit(lambda: None)
    assert rig.transactor.began == []


async def test_a_fault_of_one_handler_is_no_other_partitions_business(rig: Rig) -> None:
    """The others commit."""

    def broken() -> Commit | None:
        raise ValueError("a bug")

    first, second = await rig.open(0), await rig.open(1)
    outcomes = await asyncio.gather(first.commit(broken), second.commit(ready(1)), return_exceptions=True)
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1] is None
    assert rig.transactor.committed == [[1]]


async def test_a_fault_that_passes_costs_no_partition_its_place(rig: Rig) -> None:
    """A broker that goes away: a new epoch, the same transaction."""
    rig.transactor.script += [failed(transient=True, again=True)] * 3
    assert await all_commit(rig, 0, 1) == [None, None]
    assert rig.transactor.committed == [[0, 1]]
    assert [numbers for numbers, _ in rig.transactor.began] == [[0, 1]] * 4
    assert rig.transactor.starts == 4


async def test_brokers_that_are_away_are_waited_for(rig: Rig) -> None:
    """Also where the new epoch cannot begin yet."""
    committers = [await rig.open(0), await rig.open(1)]
    rig.transactor.script.append(failed(transient=True, again=True))
    rig.transactor.start_errors += [KafkaConnectionError("away")] * 3
    await asyncio.gather(*(one.commit(ready(number)) for number, one in enumerate(committers)))
    assert rig.transactor.committed == [[0, 1]]
    assert rig.transactor.starts == 5


async def test_a_fault_that_does_not_pass_costs_only_its_own_partition(rig: Rig) -> None:
    """A record that no broker takes: the partitions are tried one by one."""
    rig.transactor.poison = {1}
    outcomes = await all_commit(rig, 0, 1, 2)
    assert [type(outcome) for outcome in outcomes] == [type(None), CommitFailed, type(None)]
    assert rig.transactor.committed == [[0], [2]]


@pytest.mark.parametrize("transient", [False, True])
async def test_a_transaction_that_may_have_come_about_is_not_run_again(rig: Rig, transient: bool) -> None:
    """All its partitions open again from what the broker holds. The next transaction has a new epoch."""
    rig.transactor.script.append(failed(transient=transient, again=False))
    outcomes = await all_commit(rig, 0, 1)
    assert [getattr(outcome, "transient", None) for outcome in outcomes] == [transient, transient]
    assert await all_commit(rig, 0, 1) == [None, None]
    assert rig.transactor.starts == 2


@pytest.mark.parametrize("came_about", [True, False])
async def test_the_committed_offsets_tell_what_became_of_a_transaction(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, came_about: bool
) -> None:
    """Asked in a new epoch, in which it can come about no more. If it did not, it is run again."""
    place, asked = {TP: OffsetAndMetadata(7, "map")}, list[int]()

    async def committed(consumer: Any, tps: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        assert tps == [TP]
        asked.append(rig.transactor.starts)
        return place if came_about else {TP: OffsetAndMetadata(6, "map")}

    monkeypatch.setattr(module, "committed_offsets", committed)
    first, second = await rig.open(0), await rig.open(1)
    rig.transactor.script.append(CommitFailed("lost", transient=True, unknown=True))
    await asyncio.gather(first.commit(ready(0)), second.commit(lambda: Commit(1, [], place, moved=True)))
    assert asked == [2]
    assert rig.transactor.committed == ([] if came_about else [[0, 1]])


@pytest.mark.parametrize("moved", [True, False])
async def test_where_nothing_tells_the_partitions_open_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """The coordinator is away, or no offset of the transaction was a new one."""

    async def away(consumer: Any, tps: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        assert moved
        raise KafkaConnectionError("away")

    monkeypatch.setattr(module, "committed_offsets", away)
    committer = await rig.open(0)
    rig.transactor.script.append(CommitFailed("lost", transient=True, unknown=True))
    with pytest.raises(CommitFailed, match="lost"):
        await committer.commit(lambda: Commit(0, [], {TP: OffsetAndMetadata(7, "")}, moved=moved))


async def test_it_is_not_run_again_for_ever(rig: Rig) -> None:
    """Within the time that a commit may take."""
    rig.transactor.script += [failed(transient=True, again=True)] * 1000
    outcomes = await all_commit(rig, 0, 1)
    assert all(isinstance(outcome, CommitFailed) and outcome.transient for outcome in outcomes)


async def test_a_transaction_that_does_not_end_ends_with_a_word(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a topic that is gone, say."""
    monkeypatch.setattr(module, "COMMIT_TIMEOUT_S", 0.05)
    committer = await rig.open(0)
    rig.transactor.gate.clear()
    with pytest.raises(CommitFailed, match="did not end within") as caught:
        await committer.commit(ready(0))
    assert caught.value.transient


async def test_a_partition_that_hangs_takes_no_other_along(rig: Rig) -> None:
    """A partition of its topic has no leader, say: the others commit without it, and it has a time of its own."""
    rig.transactor.hangs = {1}
    committers = [await rig.open(number) for number in (1, 0, 2)]
    waiting = [
        asyncio.ensure_future(one.commit(ready(number))) for one, number in zip(committers, (1, 0, 2), strict=True)
    ]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [CommitFailed, type(None), type(None)]
    assert rig.transactor.committed == [[0], [2]]


async def test_a_worker_that_is_no_member_begins_no_epoch(rig: Rig) -> None:
    """One that wakes from a freeze may have a successor with its transactional id: it would end that one's transaction."""
    committer = await rig.open(0)
    rig.transactor.script.append(failed(transient=True, again=True))
    rig.current = False
    committing = asyncio.ensure_future(committer.commit(ready(0)))
    await asyncio.sleep(5)
    assert rig.transactor.starts == 1
    rig.current = True
    await committing
    assert rig.transactor.starts == 2


async def test_a_refusal_is_told_as_one(rig: Rig) -> None:
    """No wait gives the worker its rights."""
    committer = await rig.open(0)
    rig.transactor.script.append(failed(transient=True, again=True))
    rig.transactor.start_errors.append(TopicAuthorizationFailedError({"t.results"}))
    with pytest.raises(CommitFailed, match="Kafka refuses access to topic") as caught:
        await committer.commit(ready(0))
    assert not caught.value.transient


async def test_a_fault_of_our_own_does_not_end_the_transactions(rig: Rig) -> None:
    """It is told, and the next one runs."""
    committer = await rig.open(0)
    rig.transactor.script.append(AssertionError("a state nobody expected"))
    with pytest.raises(CommitFailed, match="a state nobody expected") as caught:
        await committer.commit(ready(0))
    assert not caught.value.transient
    await committer.commit(ready(0))
    assert rig.transactor.committed == [[0]]


async def test_a_partition_is_opened_again_only_once_its_commit_has_ended(rig: Rig) -> None:
    """What it began to commit, closed or not, must not come into force after its offsets are read."""
    rig.transactor.gate.clear()
    committer = await rig.open(0)
    cut_off = asyncio.ensure_future(committer.commit(ready(0)))
    await until(lambda: rig.transactor.began)
    cut_off.cancel()
    await committer.close()
    opening = asyncio.ensure_future(rig.open(0))
    other = asyncio.ensure_future(rig.open(1))
    await settle(20)
    assert not opening.done()
    assert other.done()
    rig.transactor.gate.set()
    await opening
    assert rig.transactor.committed == [[0]]


async def test_a_partition_that_was_closed_does_not_go_along(rig: Rig) -> None:
    """Not even in the turn of the loop in which it ends, nor when running a transaction again."""
    first, second = await rig.open(0), await rig.open(1)
    waiting = asyncio.ensure_future(first.commit(ready(0)))
    await asyncio.sleep(0)
    waiting.cancel()
    await second.commit(ready(1))
    assert rig.transactor.committed == [[1]]
    rig.transactor.gate.clear()
    rig.transactor.script.append(failed(transient=True, again=True))
    both = [asyncio.ensure_future(one.commit(ready(number))) for number, one in enumerate((first, second))]
    await until(lambda: len(rig.transactor.began) == 2)
    both[0].cancel()
    await settle()
    rig.transactor.gate.set()
    await both[1]
    assert [numbers for numbers, _ in rig.transactor.began[1:]] == [[0, 1], [1]]


async def test_members_of_different_generations_are_not_mixed(rig: Rig) -> None:
    """Of the older nothing is committed any more: the coordinator refuses it, and only it."""
    old = await rig.open(0)
    rig.generation = 2
    new = await rig.open(1)
    rig.transactor.script += [failed(transient=True, again=False), None]
    outcomes = await asyncio.gather(old.commit(ready(0)), new.commit(ready(1)), return_exceptions=True)
    assert isinstance(outcomes[0], CommitFailed)
    assert outcomes[1] is None
    assert [member.generation for _, member in rig.transactor.began] == [1, 2]


async def test_who_is_no_member_opens_nothing(rig: Rig) -> None:
    """A coordinator takes offsets that name no member from anybody."""
    rig.generation = -1
    with pytest.raises(UnknownMemberIdError):
        await rig.open(0)


async def test_a_transaction_is_of_bounded_size(rig: Rig) -> None:
    """The rest goes with the next one, at once."""
    committers = [await rig.open(number) for number in range(3)]
    await asyncio.gather(*(one.commit(ready(n, module.MOST_BYTES)) for n, one in enumerate(committers)))
    assert rig.transactor.committed == [[0], [1], [2]]


async def test_what_earlier_owners_left_open_is_asked_for_by_partition(rig: Rig) -> None:
    """The transactor knows whose they are."""
    committer = await rig.open(3)
    with committer.opening():
        await asyncio.sleep(10 * FIRST_S)
    assert rig.transactor.asked[:2] == [{3}, {3}]


async def test_partitions_that_open_at_once_are_looked_at_once_together(rig: Rig) -> None:
    """A transaction that was left open holds up readers of other topics, though no offsets of the partition are in it."""
    for number in (3, 4):
        with (await rig.open(number)).opening():
            pass
    assert rig.transactor.asked == []
    await asyncio.sleep(60)
    assert rig.transactor.asked == [{3, 4}]


async def test_a_look_that_not_every_broker_answers_is_repeated(rig: Rig) -> None:
    """The one that did not may coordinate the transaction."""
    rig.transactor.answers.extend([False, False])
    with (await rig.open(3)).opening():
        pass
    await asyncio.sleep(60)
    assert rig.transactor.asked == [{3}, {3}, {3}]


async def test_what_may_be_anothers_by_now_is_not_looked_for(rig: Rig) -> None:
    """Its owner's transaction would be ended."""
    given_up = await rig.open(3)
    with given_up.opening():
        pass
    with (await rig.open(4)).opening():
        pass
    await given_up.close()
    rig.current = False
    await asyncio.sleep(60)
    assert rig.transactor.asked == []
    rig.current = True
    await asyncio.sleep(60)
    assert rig.transactor.asked == [{4}]


async def test_a_closed_committer_commits_nothing(rig: Rig) -> None:
    """It would be of another opening."""
    committer = await rig.open(0)
    await committer.close()
    with pytest.raises(CommitFailed, match="not started"):
        await committer.commit(cast("Any", ready(0)))
