"""One partition number under this worker: its three ledgers, its handler, its committer. Created at assignment, gone at
revoke.

In: records of the intake topics of this number, in order. Out: `Output`s and offsets, committed together in a loop.
Answers that come after it was closed are ignored: its epoch is over. It never polls and never touches another
partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from streams.engine.commit import Commit, CommitFailed, Committer
from streams.engine.expired_records import ExpiredRange, ExpiredRecords
from streams.engine.fingerprint import Batches
from streams.engine.handler import Handler
from streams.engine.kept_offsets import KeptOffsets
from streams.rules.engine import offset_map
from streams.rules.engine.ledger import Ledger
from streams.rules.engine.pacing import FULL_BATCH
from streams.rules.engine.start_offsets import KeptOffset
from streams.rules.records import Output

log = structlog.get_logger(__name__)

ROW_BYTES = 300
SKIP_COMMIT_S = 2.0
"""Skipped records alone cause no commit sooner than this."""
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
"""Finished and uncommitted outputs: beyond this a partition reads no more."""
UNBLOCK_BATCH = 256
CUT_OFF_S = 1.0
"""A call that is cut off ends within a few turns of the loop, unless its transport delays it."""


class Head(NamedTuple):
    """Where a topic partition begins: offset, offset map, and whether that was committed (or is the log's beginning).

    `end`: the log's end, if the group never committed and may begin there. `log`: the log's identity. `log_end`: the
    log's end for readers of committed records. `begin`: where the log begins, or 0 if unknown; records between `offset`
    and there are gone.
    """

    offset: int
    map: str
    committed: bool
    end: int | None = None
    log: KeptOffset = KeptOffset(0)
    log_end: int = 0
    begin: int = 0


class PartitionProcessor:
    """Owns every agent whose id hashes to `number`."""

    def __init__(
        self,
        number: int,
        committer: Committer,
        partitions: Mapping[str, TopicPartition],
        *,
        on_room: Callable[[PartitionProcessor], None],
        on_lost: Callable[[PartitionProcessor, CommitFailed], None],
        kept: KeptOffsets | None = None,
        expired: ExpiredRecords | None = None,
    ) -> None:
        """`partitions`: intake topic (short name) to its topic partition. `kept`: makes the record of the progress for
        each commit.
        """
        self.number = number
        self.partitions = dict(partitions)
        self.ledgers: dict[str, Ledger] = {}
        self.logs: dict[str, KeptOffset] = {}
        """What is known of each topic's log; `offset` and `map` are not kept up to date here."""
        self.inboxes: dict[str, deque[ConsumerRecord]] = {source: deque() for source in self.partitions}
        self.batches = {source: Batches() for source in self.partitions}
        self.handler: Handler | None = None
        self.ready = False
        self.closed = False
        self.lost = False
        """Whether its last work may be uncommitted."""
        self.committer = committer
        self._on_room = on_room
        self._on_lost = on_lost
        self.kept = kept
        self.is_added = False
        """Whether it was added to partitions of its group, and was never open before."""
        self._counts: Sequence[int] = ()
        self._inherited: list[Output] = []
        self._expired_records = expired or ExpiredRecords()
        self._expired: dict[TopicPartition, ExpiredRange] = {}
        """Expired records, not committed yet."""
        self._finished: list[tuple[str, int]] = []
        self._outputs: list[Output] = []
        self._after: list[Callable[[], None]] = []
        self._waiting_bytes = self._committing_bytes = 0
        self.commits = 0
        self._committed: dict[str, tuple[int, str]] = {}
        self._unblocked: dict[str, int] = {}
        self._dirty = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop_task: asyncio.Task[None] | None = None
        self._skipped: asyncio.TimerHandle | None = None
        self._handler_closed = self._log_news = False
        self._ends: dict[str, int] = {}
        self.behind: set[str] = set()
        """Topics that the handler waits for, see `caught_up`."""

    @property
    def waiting(self) -> bool:
        """Whether records wait in an inbox."""
        return any(self.inboxes.values())

    def remember(
        self, counts: Sequence[int], is_new: bool, inherited: Sequence[Output], is_added: bool = False
    ) -> None:
        """Called before it opens; see `Remembered`. `inherited` is written with the first commit, which then holds both."""
        self._counts, self.is_added = counts, is_added
        self._log_news |= is_new and self.kept is not None
        self._inherited = list(inherited)
        self._waiting_bytes += sum(row.size + ROW_BYTES for row in inherited)

    def open(self, heads: Mapping[str, Head], handler: Handler) -> None:
        """Start from what is committed."""
        for source, (head, text, committed, _, known, log_end, begin) in heads.items():
            tp = self.partitions[source]
            self._ends[source] = log_end
            try:
                done = offset_map.decode(tp.topic, tp.partition, head, text)
            except offset_map.MapError as error:
                log.warning("offset map invalid; work finished beyond the commit is done again", topic=tp.topic,
                            partition=tp.partition, offset=head, error=str(error))  # fmt: skip
                done = []
            self.ledgers[source] = Ledger(head, done)
            self.logs[source] = known
            self._committed[source] = (head, text) if committed else (-1, "")
            self.expire(source, head, begin)
        self._dirty.set()  # a group without commits commits its start, which makes its lag visible
        self.handler = handler
        self._loop_task = asyncio.create_task(self._commit_loop(), name=f"commit-{self.number}")

    def arrived(self, source: str, records: Sequence[ConsumerRecord]) -> None:
        """The next records of a topic, at least one."""
        self.inboxes[source].extend(records)
        self.batches[source].came(records[-1])

    def read_to(self, source: str) -> int:
        """The offset before which everything has come from a topic."""
        return max(self.ledgers[source].next, self.batches[source].end)

    def caught_up(self, source: str) -> bool:
        """Whether every record of `source` that was there when this owner began has been handed over."""
        if self.ledgers[source].next >= self._ends[source]:
            self.behind.discard(source)
            return True
        self.behind.add(source)
        return False

    def full(self, source: str) -> bool:
        """Whether more records wait for their commit than memory, or `source`'s offset map in a commit, should hold."""
        self._unblock(source)
        waiting = self._waiting_bytes + self._committing_bytes
        return waiting > MAX_OUTPUT_BYTES or self.ledgers[source].full()

    def _unblock(self, source: str) -> None:
        """Have the records moved away that hold back the commit of `source`; again only after that has taken effect."""
        ledger = self.ledgers[source]
        if self.handler is None or ledger.head <= self._unblocked.get(source, -1):
            return
        blocking_offsets = ledger.blocking_offsets(UNBLOCK_BATCH)
        if blocking_offsets:
            self._unblocked[source] = blocking_offsets[-1]
            self.handler.unblock(source, blocking_offsets)

    def wake(self) -> None:
        """There is room again, or something to take."""
        self._on_room(self)

    def blocking(self, source: str) -> dict[str, Any] | None:
        """The record that holds back the commit of `source`, and why; None when nothing is in flight."""
        ledger = self.ledgers[source]
        if not ledger.in_flight or self.handler is None:
            return None
        found = self.handler.explain(source, ledger.head)
        return {"offset": ledger.head, **(found or {"reason": "committing"})}

    def complete(self, source: str, offset: int, outputs: Sequence[Output]) -> None:
        """Finish a record; its outputs go out with the next commit. Ignored once the partition is closed."""
        if self.closed:
            return
        self._finished.append((source, offset))
        self._outputs.extend(outputs)
        for output in outputs:
            self._waiting_bytes += len(output.value or b"") + ROW_BYTES
        self._dirty.set()
        if len(self._finished) >= FULL_BATCH:
            self.committer.hurry()
        if self.waiting:
            self._on_room(self)

    def expire(self, source: str, first: int, end: int) -> None:
        """The log lost its records from `first` to before `end`; those of them that are not finished will not come.

        Reported with the next commit, which marks them as finished.
        """
        if not self.closed and (count := self.ledgers[source].expire(first, end)):
            self._note_expired(source, ExpiredRange(first, end - 1, count))

    def complete_expired(self, source: str, offset: int) -> None:
        """A record in flight stayed on its topic and is gone from it: finish it, without a result."""
        self.report_expired(source, offset)
        self.complete(source, offset, [])

    def report_expired(self, source: str, offset: int) -> None:
        """A finished record that was still needed is gone from its topic."""
        if not self.closed:
            self._note_expired(source, ExpiredRange(offset, offset, 1))

    def _note_expired(self, source: str, found: ExpiredRange) -> None:
        tp = self.partitions[source]
        earlier = self._expired.get(tp)
        self._expired[tp] = found if earlier is None else earlier.joined(found)
        self._dirty.set()

    def afterwards(self, on_committed: Callable[[], None]) -> None:
        """Call this once everything completed so far is committed; never if that fails. It must not raise."""
        self._after.append(on_committed)

    def skip(self, source: str, offset: int) -> None:
        """Finish a record that is not for the handler; committed with other records, or a little later."""
        if self.closed:
            return
        self.ledgers[source].done(offset)
        if self._skipped is None:
            self._skipped = asyncio.get_running_loop().call_later(SKIP_COMMIT_S, self._commit_skipped)

    def _commit_skipped(self) -> None:
        self._skipped = None
        self._dirty.set()

    def touch(self) -> None:
        """The handler's state changed without a finished record: commit it too."""
        self._dirty.set()

    def passed(self, positions: Mapping[str, int]) -> None:
        """The consumer's positions while nothing of this partition is on its way: transaction markers before them are
        done.
        """
        for source, position in positions.items():
            ledger = self.ledgers[source]
            if position > ledger.next:
                ledger.skip_to(position)
                if self._skipped is None:  # otherwise it is committed with skipped records
                    self._dirty.set()

    def checked(self, source: str, known: KeptOffset) -> None:
        """The log is still the one that was read. Kept with the next commit, or one of its own: the next owner must
        know.
        """
        if known != self.logs[source]:
            self.logs[source] = known
            if self.kept is not None:
                self._log_news = True
                self._dirty.set()

    async def _commit_loop(self) -> None:
        while True:
            await self._dirty.wait()
            try:
                await self._commit()
            except CommitFailed as error:
                self._lose(error)
                return
            except Exception as error:
                log.exception("unexpected error during commit", partition=self.number)
                self._lose(CommitFailed(f"the commit failed: {error!r}"))
                return

    def lose(self, reason: str) -> None:
        """A log changed under it: open it again from what is there now."""
        self._lose(CommitFailed(reason, transient=True))

    def _lose(self, error: CommitFailed) -> None:
        if not self.closed:
            self.closed = self.lost = True
            self._on_lost(self, error)

    async def _commit(self) -> None:
        """Commit what is ready when the turn comes. Raises `CommitFailed`, and errors of the handler."""
        committed: list[Callable[[], None]] = []
        try:
            await self.committer.commit(lambda: self._collect(committed))
        finally:
            self._idle.set()
        for on_committed in committed:
            on_committed()

    def _collect(self, committed: list[Callable[[], None]]) -> Commit | None:
        """What is ready; None if nothing is. `committed` gets the functions to call once it is durable."""
        records = self._record_finished()
        for source in self.ledgers:
            self._unblock(source)  # also without intake: records finished out of order make the map grow
        # Records finished by that are included: the handler's changes below already contain their ids.
        records += self._record_finished()
        outputs, self._outputs = self._outputs, []
        expired, self._expired = self._expired, {}
        self._committing_bytes, self._waiting_bytes = self._waiting_bytes, 0
        self._dirty.clear()
        places: dict[str, tuple[int, str]] = {}
        for source, ledger in self.ledgers.items():
            tp, head = self.partitions[source], ledger.head
            places[source] = (head, offset_map.encode(tp.topic, tp.partition, head, ledger.runs()))
        outputs += self._expired_records.events(expired)
        inherited, self._inherited = self._inherited, []
        outputs += inherited  # before the changes: a row of the same key is newer there
        if self.handler is not None:
            outputs += self.handler.changes()
        moved = [source for source, place in places.items() if place != self._committed[source]]
        if not (outputs or moved or self._log_news):
            return None
        # An offset and a row of its own go with every commit, changed or not: by the one the group's coordinator refuses a commit
        # of an earlier owner, by the other the next owner finds a transaction that was left open.
        offsets = {self.partitions[source]: OffsetAndMetadata(*places[source]) for source in moved or [*places][:1]}
        if self.kept is not None:
            self._log_news = False
            rows = {s: log._replace(offset=places[s][0], map=places[s][1]) for s, log in self.logs.items()}
            outputs.append(self.kept.record(self.number, rows, self._counts))
        after, self._after = self._after, []
        self._idle.clear()
        committed.append(lambda: self._note_committed(places, expired))
        committed.extend(after)
        return Commit(self.number, outputs, offsets, self._committing_bytes, records, bool(moved))

    def _note_committed(self, places: dict[str, tuple[int, str]], expired: dict[TopicPartition, ExpiredRange]) -> None:
        self._committed = places
        self._committing_bytes = 0
        self.commits += 1
        self._expired_records.committed(expired)
        if self.waiting:
            self._on_room(self)

    def _record_finished(self) -> int:
        finished, self._finished = self._finished, []
        for source, offset in finished:
            self.ledgers[source].done(offset)
        return len(finished)

    async def drain(self, timeout_s: float) -> None:
        """Let calls under way finish, at most `timeout_s` seconds, and commit them; cut off the rest. Then the
        partition is closed.
        """
        for inbox in self.inboxes.values():
            inbox.clear()
        cut_off = False
        if self.handler is not None:
            self.handler.hold()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while self.handler.running():  # noqa: ASYNC110 - counts the calls of all agents, once a revoke
                        await asyncio.sleep(0.01)
            cut_off = self.handler.running() > 0
        if self._loop_task is not None and not self.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._commit_rest()
                    if cut_off:
                        # Only a call that has ended counts as it should: end them, and commit once more what that changed.
                        await self._cut_off()
                        await self._commit_rest()
            except TimeoutError:
                log.warning("commit not finished in time; its tasks are done again", partition=self.number)
        await self.close()

    async def _commit_rest(self) -> None:
        """Wait until what was finished, and what changed in the handler, is committed, or the commit loop has ended."""
        self._dirty.set()
        while (self._finished or self._dirty.is_set() or not self._idle.is_set()) and not self._loop_done():
            self.committer.hurry()
            await asyncio.sleep(0.002)

    def _loop_done(self) -> bool:
        return self._loop_task is None or self._loop_task.done()

    async def _cut_off(self) -> None:
        """End the calls under way. They count against their agents' limits at the next owner too."""
        await asyncio.sleep(0)  # a call before its first step would end without being counted
        self._close_handler()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_OFF_S):
                while self.handler is not None and self.handler.running():  # noqa: ASYNC110 - counts the calls of all agents
                    await asyncio.sleep(0.002)

    def _close_handler(self) -> None:
        if self.handler is not None and not self._handler_closed:
            self._handler_closed = True
            self.handler.close()

    async def close(self) -> None:
        """Drop everything at once; the next owner does again what is not committed."""
        self.closed = True
        if self._skipped is not None:
            self._skipped.cancel()
        for inbox in self.inboxes.values():
            inbox.clear()
        self._close_handler()
        if self._loop_task is not None and self._loop_task is not asyncio.current_task():
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        await self.committer.close()
