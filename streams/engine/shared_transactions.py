"""One transaction at a time for all partitions of a role: what is ready in any of them is included.

A broker's work depends on the number of transactions far more than on the partitions or records in them. With one
producer for each partition, a few hundred tasks a second kept a broker busy with transactions of one task.

In: from each partition, a function that collects what is ready. Out: one transaction after another, paced by
`streams.rules.engine.pacing`. The group fences an earlier owner of a partition: offsets sent with an old generation are
refused, and a transaction without its offsets is not ended. So every commit of a partition includes its offsets.

A transaction that fails before its end was requested takes no effect once a new producer epoch has begun. It is run
again: all together after a transient fault, each partition by itself after any other, so only the partition with the
fault loses its position. If the answer to its end is lost, the committed offsets show its outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from streams.engine.commit import COMMIT_TIMEOUT_S, Collect, Commit, CommitFailed, CommitPace
from streams.engine.faults import describe_error, is_transient
from streams.engine.group_offsets import committed_offsets
from streams.engine.left_open import LeftOpen
from streams.engine.membership import Membership, membership

log = structlog.get_logger(__name__)

TOGETHER_S = 15.0
"""Partitions that wait longer than this for one another are tried one by one: one of them may have no leader."""
MOST_BYTES = 32 * 1024 * 1024
"""Outputs of one transaction; a partition that would go beyond waits for the next one."""
CURRENT_RECHECK_S = 0.05
RETRY_PAUSE_S = 0.1
MAX_RETRY_PAUSE_S = 2.0


class Transactor(Protocol):
    """Runs transactions under one transactional id."""

    @property
    def end_asked(self) -> bool:
        """Whether the end of the last transaction was requested."""
        ...

    async def start(self) -> None:
        """Begin a new producer epoch: a transaction left open by an earlier one is aborted. Raises `KafkaError`,
        `TimeoutError`.
        """
        ...

    async def run(self, commits: Sequence[Commit], member: Membership) -> None:
        """Run one transaction, all or nothing. Raises `CommitFailed`; then a new start is needed."""
        ...

    async def end_left_open(self, numbers: Collection[int], consumer: AIOKafkaConsumer) -> bool:
        """Abort transactions that other producers of the group left open in these partitions. False: not every broker
        answered.
        """
        ...

    async def close(self) -> None:
        """Release connections; an open transaction is left to be aborted."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """A partition that waits for its commit."""

    collect: Collect
    member: Membership
    consumer: AIOKafkaConsumer
    done: asyncio.Future[None]
    commit: Commit | None = None


class SharedTransactions:
    """The transactions of one role of this worker."""

    def __init__(
        self, transactor: Transactor, interval_max_s: float, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_current`: whether this worker is a member of the group, see `Engine.is_current`. If not, no new epoch
        begins: it may have a successor with the same transactional id.
        """
        self._transactor = transactor
        self._is_current = is_current
        self._pace = CommitPace(interval_max_s)
        self.hurry = self._pace.hurry
        self._waiting: dict[_Waiting, None] = {}
        self._wanted = asyncio.Event()
        self._under_way: dict[int, asyncio.Event] = {}
        """By partition number: the future of the end of its transaction."""
        self._started = False
        self._starting = asyncio.Lock()
        self._loop_task: asyncio.Task[None] | None = None
        self.left_open = LeftOpen(transactor.end_left_open, is_current)

    def partition(self, number: int, consumer: AIOKafkaConsumer) -> PartitionCommitter:
        """The committer of one partition, for as long as it is open."""
        return PartitionCommitter(self, number, consumer)

    async def started(self, number: int) -> None:
        """Wait until no earlier commit of that partition can take effect any more. Raises `KafkaError`,
        `TimeoutError`.
        """
        while (ended := self._under_way.get(number)) is not None:
            await ended.wait()
        await self._ensure_started()
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._run(), name="transactions")

    async def commit(self, collect: Collect, member: Membership, consumer: AIOKafkaConsumer) -> None:
        """Take part in the next transaction. Raises `CommitFailed`, and errors of `collect`."""
        waiting = _Waiting(collect, member, consumer, asyncio.get_running_loop().create_future())
        self._waiting[waiting] = None
        self._wanted.set()
        try:
            await waiting.done
        finally:
            self._waiting.pop(waiting, None)

    async def close(self) -> None:
        """Stop. No commit may be waited for any more."""
        await self.left_open.close()
        if self._loop_task is not None:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        await self._transactor.close()

    async def _ensure_started(self) -> None:
        async with self._starting:
            if not self._started:
                while not self._is_current():  # noqa: ASYNC110 - heartbeats renew the lease, at long intervals
                    await asyncio.sleep(CURRENT_RECHECK_S)
                await self._transactor.start()
                self._started = True

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            await self._pace.turn()
            self._wanted.clear()
            groups = self._collect()
            ended = asyncio.Event()
            numbers = [one.commit.number for group in groups for one in group if one.commit is not None]
            self._under_way.update(dict.fromkeys(numbers, ended))
            try:
                for group in groups:
                    await self._commit(group)
            finally:
                for number in numbers:
                    self._under_way.pop(number, None)
                ended.set()

    def _collect(self) -> list[list[_Waiting]]:
        """What is included now, by membership: members of an earlier generation are refused, and only they."""
        groups: dict[Membership, list[_Waiting]] = defaultdict(list)
        size = 0
        for waiting in list(self._waiting):
            if size >= MOST_BYTES:
                self._wanted.set()
                self.hurry()
                break
            del self._waiting[waiting]
            if waiting.done.done():
                continue
            try:
                waiting.commit = waiting.collect()
            except Exception as error:  # the fault is its own
                waiting.done.set_exception(error)
                continue
            if waiting.commit is None:
                waiting.done.set_result(None)
                continue
            size += waiting.commit.size
            groups[waiting.member].append(waiting)
        return list(groups.values())

    async def _commit(self, group: list[_Waiting]) -> None:
        """Commit what was collected, in one transaction or in several; report the outcome to each partition.

        Partitions that run by themselves have the whole time each: one that hangs takes no time from the others.
        """
        time = asyncio.get_running_loop().time
        pause_s = RETRY_PAUSE_S
        left = [(group, time() + COMMIT_TIMEOUT_S)]
        while left:
            members, until = left.pop(0)
            now = [one for one in members if not one.done.done()]
            if not now:
                continue
            began, alone = time(), len(now) == 1
            failed = await self._attempt(now, until if alone else min(until, began + TOGETHER_S))
            if failed is not None and failed.unknown:
                failed = await self._found_out(now, until, failed)
            if failed is None:
                self._pace.ended(began, sum(one.commit.records for one in now if one.commit is not None))
                _tell(now, None)
            elif not failed.again or time() + pause_s >= until or (alone and not failed.transient):
                _tell(now, failed)
            elif alone or (failed.transient and time() - began < TOGETHER_S):
                log.info("running a transaction again", partitions=len(now), reason=str(failed))
                left.insert(0, (now, until))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_PAUSE_S)
            else:
                log.info(
                    "running a transaction again, each partition by itself", partitions=len(now), reason=str(failed)
                )
                left = [*(([one], time() + COMMIT_TIMEOUT_S) for one in now), *left]

    async def _attempt(self, now: list[_Waiting], until: float) -> CommitFailed | None:
        begun, began = False, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(until):
                await self._ensure_started()
                begun = True
                try:
                    await self._transactor.run([one.commit for one in now if one.commit is not None], now[0].member)
                except BaseException:
                    self._started = False
                    raise
        except CommitFailed as error:
            return error
        except TimeoutError:
            asked = begun and self._transactor.end_asked
            return CommitFailed(
                f"a commit did not end within {until - began:.0f} s", transient=True, again=not asked, unknown=asked
            )
        except (KafkaError, OSError) as error:  # from a start: nothing was begun
            return CommitFailed(f"no transaction can begin: {describe_error(error)}", is_transient(error), again=True)
        except Exception as error:  # our own fault, or aiokafka's: without this no further transaction would run
            log.exception("unexpected error during a transaction")
            return CommitFailed(f"the commit failed: {error!r}")
        return None

    async def _found_out(self, now: list[_Waiting], until: float, failed: CommitFailed) -> CommitFailed | None:
        """The outcome of a transaction whose end was requested; None: it was committed. `failed` again: it is
        unknown.
        """
        moved = {
            tp: place
            for one in now
            if one.commit is not None and one.commit.moved
            for tp, place in one.commit.offsets.items()
        }
        if not moved:
            return failed
        try:
            async with asyncio.timeout_at(until):
                await self._ensure_started()  # from here on it cannot be committed any more
                found = await committed_offsets(now[0].consumer, list(moved))
        except Exception as error:
            log.info("the outcome of a transaction is not known yet", error=describe_error(error))
            return failed
        if all(found.get(tp) == place for tp, place in moved.items()):
            return None
        return CommitFailed(str(failed), transient=True, again=True)


def _tell(group: list[_Waiting], error: CommitFailed | None) -> None:
    for waiting in group:
        if waiting.done.done():
            continue
        if error is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(CommitFailed(str(error), error.transient))


@dataclass(slots=True, eq=False)
class PartitionCommitter:
    """A partition's share in the transactions of its role; see `streams.engine.commit.Committer`."""

    _transactions: SharedTransactions
    _number: int
    _consumer: AIOKafkaConsumer
    _member: Membership | None = field(default=None)

    async def start(self) -> None:
        """After it, no commit that this worker began for this partition can take effect."""
        self._member = None
        await self._transactions.started(self._number)
        self._member = membership(self._consumer)

    def opening(self) -> AbstractContextManager[None]:
        """Surrounds the opening of the partition."""
        return self._transactions.left_open.opening(self._number, self._consumer)

    async def commit(self, collect: Collect) -> None:
        """Take part in the next transaction."""
        if self._member is None:
            raise CommitFailed(f"partition {self._number}: not started")
        await self._transactions.commit(collect, self._member, self._consumer)

    def hurry(self) -> None:
        """Start the next transaction without waiting."""
        self._transactions.hurry()

    async def close(self) -> None:
        """Take part in no further commit."""
        self._member = None
        self._transactions.left_open.closed(self._number)
