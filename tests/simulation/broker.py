"""The broker: logs with transactions, committed offsets, and what may happen to a log.

In: requests, one at a time. Out: records as a `read_committed` reader sees them. Transactions follow the protocol before KIP-890,
which is what aiokafka speaks: an epoch moves on only with `init_producer`, so a late `end_transaction` ends whatever is open.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from streams.engine.membership import Membership
from tests.simulation.group import Group
from tests.simulation.world import World

LogId = tuple[str, int]
Headers = tuple[tuple[str, bytes], ...]
Row = tuple[bytes | None, bytes | None, Headers]
TRANSACTION_TIMEOUT_S = 60.0
LATE_MARKERS = 0.1
"""Share of the topics of a transaction that show its end late, if any do."""


class StaleEpoch(Exception):
    """A newer producer with this transactional id has started."""


class StaleMember(Exception):
    """Offsets of a generation of the group that is over."""


@dataclass(slots=True)
class Stored:
    """A record in a log. `timestamp`: epoch ms; `transaction`: None for a plain producer's."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    transaction: Transaction | None

    @property
    def committed(self) -> bool:
        """Whether a `read_committed` reader is given it."""
        return self.transaction is None or self.transaction.state == "committed"


Fetched = dict[LogId, "tuple[list[Stored], int] | None"]


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction: what it wrote to, and the offsets that come into force with it."""

    id: str
    epoch: int
    state: str = "open"
    enrolled: set[LogId] = field(default_factory=set)
    logs: set[LogId] = field(default_factory=set)
    offsets: dict[tuple[str, str, int], tuple[int, str]] = field(default_factory=dict)


class Log:
    """One partition. `start` and `end`: its first offset, and the next one to be given out."""

    __slots__ = ("end", "epoch", "epoch_starts", "open", "records", "start")

    def __init__(self) -> None:
        self.records: list[Stored] = []
        self.start = self.end = 0
        self.epoch = 0
        """The leader's; each election that lost records begins another."""
        self.epoch_starts = {0: 0}
        self.open: dict[Transaction, int] = {}
        """Transactions under way and their first offset here."""

    @property
    def last_stable(self) -> int:
        """Where readers of committed records have to stop."""
        return min(self.open.values()) if self.open else self.end

    def epoch_end(self, epoch: int) -> int:
        """Where what was written up to that epoch ends."""
        later = [start for number, start in self.epoch_starts.items() if number > epoch]
        return min(later, default=self.end)

    def read(self, position: int, most: int, uncommitted: bool = False) -> tuple[list[Stored], int] | None:
        """Records from `position` on, and the position after them; None if the position is out of range.

        `uncommitted`: also those of transactions that are open or aborted.
        """
        if not self.start <= position <= self.end:
            return None
        stable, found, after = self.end if uncommitted else self.last_stable, list[Stored](), position
        for at in range(bisect_left(self.records, position, key=lambda record: record.offset), len(self.records)):
            record = self.records[at]
            if record.offset >= stable:
                return found, max(after, min(stable, record.offset))
            after = record.offset + 1
            if uncommitted or record.committed:
                found.append(record)
                if len(found) >= most:
                    return found, after
        return found, max(after, stable)


class Broker:
    """One cluster. `counts`: partitions by topic."""

    def __init__(self, world: World, counts: dict[str, int]) -> None:
        self.world = world
        self.counts = dict(counts)
        self.logs: dict[LogId, Log] = {(topic, n): Log() for topic, count in counts.items() for n in range(count)}
        rng = world.rng("topic ids")
        self.topic_ids = {topic: uuid.UUID(int=rng.getrandbits(128), version=4) for topic in sorted(counts)}
        self.groups: dict[str, Group] = {}
        self.committed: dict[tuple[str, str, int], tuple[int, str]] = {}
        self.listeners: dict[str, list[Callable[[LogId, list[Stored]], None]]] = defaultdict(list)
        """Called with each batch that is appended to a topic, committed or not."""
        self.late_markers_s = 0.0
        """How late, at most, some topics show the end of a transaction whose offsets are committed."""
        self._marker_rng = world.rng("markers")
        self._epochs: dict[str, int] = defaultdict(lambda: -1)
        self._open: dict[str, Transaction] = {}
        self._waiting: dict[LogId, dict[Callable[[], bool], None]] = defaultdict(dict)

    # Logs

    def append(self, log_id: LogId, rows: Iterable[Row], transaction: Transaction | None = None) -> None:
        """Write a batch."""
        log = self.logs[log_id]
        if transaction is not None and transaction not in log.open:
            log.open[transaction] = log.end
            transaction.logs.add(log_id)
        batch = []
        for key, value, headers in rows:
            batch.append(Stored(log.end, key, value, headers, self.world.wall_ms, transaction))
            log.end += 1
        log.records += batch
        for listener in self.listeners[log_id[0]]:
            listener(log_id, batch)
        self._wake((log_id,))

    def fetch(self, wanted: dict[LogId, int], most: int, uncommitted: bool = False) -> Fetched:
        """As a fetch request: records of each log from its position on, `most` in all; None for a position out of range."""
        found: Fetched = {}
        for log_id, position in wanted.items():
            got = found[log_id] = self.logs[log_id].read(position, max(1, most), uncommitted)
            most -= 0 if got is None else len(got[0])
            if most <= 0:
                break
        return found

    def long_poll(
        self, wanted: dict[LogId, int], most: int, wait_s: float, reply: Callable[[Fetched], None], uncommitted: bool
    ) -> None:
        """Reply as soon as there is something to tell, or with nothing after `wait_s`."""

        def look(last: bool = False) -> bool:
            found = self.fetch(wanted, most, uncommitted)
            if not last and all(got is not None and not got[0] for got in found.values()):
                return False
            for log_id in wanted:
                self._waiting[log_id].pop(look, None)
            reply(found)
            return True

        if not look():
            for log_id in wanted:
                self._waiting[log_id][look] = None
            first = next(iter(wanted))
            self.world.at(wait_s, lambda: look in self._waiting[first] and look(last=True))

    def _wake(self, logs: Iterable[LogId]) -> None:
        for log_id in logs:
            for look in list(self._waiting[log_id]):
                if look in self._waiting[log_id]:
                    look()

    def committed_records(self, topic: str) -> Iterable[Stored]:
        """All that a `read_committed` reader of a topic is given, partition by partition."""
        for (name, _), log in sorted(self.logs.items()):
            if name == topic:
                yield from (record for record in log.records if record.committed)

    def grow(self, topic: str, count: int) -> None:
        """Add partitions; it never has fewer."""
        for number in range(self.counts[topic], count):
            self.logs[topic, number] = Log()
        self.counts[topic] = max(count, self.counts[topic])

    def truncate(self, log_id: LogId, records: int) -> list[Stored]:
        """Lose the newest records, as an unclean election or a restored volume does; returns them."""
        log = self.logs[log_id]
        if log.open or not records:
            return []
        lost, log.records = log.records[-records:], log.records[:-records]
        log.end = log.records[-1].offset + 1 if log.records else log.start
        log.epoch += 1
        log.epoch_starts = {number: min(start, log.end) for number, start in log.epoch_starts.items()}
        log.epoch_starts[log.epoch] = log.end
        return lost

    def delete_before(self, log_id: LogId, offset: int) -> None:
        """As retention does."""
        log = self.logs[log_id]
        log.start = max(log.start, min(offset, log.last_stable))
        log.records = [record for record in log.records if record.offset >= log.start]

    # Transactions

    def init_producer(self, transactional_id: str) -> int:
        """Abort what an earlier producer left open; the new one's epoch."""
        if transactional_id in self._open:
            self._finish(self._open[transactional_id], "aborted")
        self._epochs[transactional_id] += 1
        return self._epochs[transactional_id]

    def enroll(self, transactional_id: str, epoch: int, logs: Iterable[LogId]) -> None:
        """Make these logs part of the transaction; nothing is written yet. Raises `StaleEpoch`."""
        self._ongoing(transactional_id, epoch).enrolled.update(logs)

    def ongoing(self) -> dict[str, list[LogId]]:
        """Each open transaction by its id, and its logs."""
        return {found.id: sorted(found.enrolled) for found in self._open.values()}

    def produce(self, transactional_id: str, epoch: int, log_id: LogId, rows: Iterable[Row]) -> None:
        """Write within the transaction. Raises `StaleEpoch`."""
        self.append(log_id, rows, self._ongoing(transactional_id, epoch))

    def commits_offset(self, group: str, topic: str, number: int) -> bool:
        """Whether an open transaction is about to commit this offset."""
        return any((group, topic, number) in transaction.offsets for transaction in self._open.values())

    def send_offsets(
        self,
        transactional_id: str,
        epoch: int,
        group: str,
        offsets: dict[LogId, tuple[int, str]],
        member: Membership | None = None,
    ) -> None:
        """Offsets that come into force when the transaction is committed. Raises `StaleEpoch`, `StaleMember`."""
        transaction = self._ongoing(transactional_id, epoch)
        if member is not None and not self.groups[group].knows(member.member_id, member.generation):
            raise StaleMember(member)
        for (topic, number), value in offsets.items():
            transaction.offsets[group, topic, number] = value

    def end_transaction(self, transactional_id: str, epoch: int) -> bool:
        """Commit what is open; False if nothing is. Raises `StaleEpoch`."""
        if self._epochs[transactional_id] != epoch:
            raise StaleEpoch(transactional_id)
        if transactional_id not in self._open:
            return False
        self._finish(self._open[transactional_id], "committed")
        return True

    def _ongoing(self, transactional_id: str, epoch: int) -> Transaction:
        if self._epochs[transactional_id] != epoch:
            raise StaleEpoch(transactional_id)
        transaction = self._open.get(transactional_id)
        if transaction is None:
            transaction = self._open[transactional_id] = Transaction(transactional_id, epoch)
            self.world.at(TRANSACTION_TIMEOUT_S, lambda: self._expire(transaction))
        return transaction

    def _expire(self, transaction: Transaction) -> None:
        if transaction.state == "open":
            self._finish(transaction, "aborted")
            self._epochs[transaction.id] += 1

    def _finish(self, transaction: Transaction, state: str) -> None:
        transaction.state = state
        self._open.pop(transaction.id, None)
        if state == "committed":
            self.committed.update(transaction.offsets)
        at_once = []
        for log_id in sorted(transaction.logs):
            if self.late_markers_s and self._marker_rng.random() < LATE_MARKERS:
                late_s = self._marker_rng.random() * self.late_markers_s
                self.world.at(late_s, partial(self._mark, transaction, [log_id]))
            else:
                at_once.append(log_id)
        self._mark(transaction, at_once)

    def _mark(self, transaction: Transaction, logs: list[LogId]) -> None:
        """The end of a transaction reaches these logs."""
        for log_id in logs:
            self.logs[log_id].open.pop(transaction, None)
            self.logs[log_id].end += 1  # the marker
        self._wake(logs)

    # Groups

    def group(self, name: str, session_s: float, rebalance_s: float) -> Group:
        """The consumer group of that name, made when it is first asked for."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(self.world, session_s, rebalance_s)
        return group
