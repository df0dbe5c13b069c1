"""The consumer side of the transactional partitions: assignment, fetching, back-pressure, reopening of fenced
partitions.

In: the intake topics (equal partition counts, assigned together). Out: one `PartitionProcessor` per assigned partition
number, fed in order. A partition is paused until its processor is ready, and is then sought to its committed offset:
what was fetched before is void. It never decides about a record; the handler does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from schemas.topics import full_name
from streams.engine import group
from streams.engine.broker_clock import wall_ms
from streams.engine.commit import CommitFailed, Committer
from streams.engine.config import EngineConfig
from streams.engine.expired_records import ExpiredRecords, Recorded
from streams.engine.feed import Feed
from streams.engine.growth_watch import GrowthWatch
from streams.engine.handler import Handler
from streams.engine.inherited_state import InheritedState
from streams.engine.instance_name import is_taken
from streams.engine.kept_offsets import KeptOffsets
from streams.engine.lease import SessionLease
from streams.engine.partition_opener import Heads, PartitionOpener
from streams.engine.partition_processor import PartitionProcessor
from streams.engine.position_resets import watch_resets
from streams.engine.state_reader import PartitionReader, StateReader
from streams.rules.engine.record_ages import RecordAges
from streams.rules.engine.start_offsets import KeptOffset
from streams.rules.engine.starts import Losses

log = structlog.get_logger(__name__)

H = TypeVar("H", bound=Handler)
"""The handler of one partition's records."""


@dataclass(slots=True)
class _Start:
    """A partition that is ready and waits for the fetch loop to admit it."""

    processor: PartitionProcessor
    heads: Heads


class Engine(ConsumerRebalanceListener, Generic[H]):  # type: ignore[misc]  # aiokafka ships no types
    """Runs the partitions of this worker.

    `make_committer(number)` and `make_handler(processor, state)` assemble one partition; `state`: the newest value of
    each key of its partition of the state topic.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        make_committer: Callable[[int, AIOKafkaConsumer], Committer],
        make_handler: Callable[[PartitionProcessor, list[bytes]], H],
        on_assigned: Callable[[], None] = lambda: None,
        before_open: Callable[[], Awaitable[None]] | None = None,
        connect: group.Connect = group.connected,
        make_reader: Callable[[dict[str, Any], str], PartitionReader] | None = None,
        wall_ms: Callable[[], int] = wall_ms,
        event: Recorded | None = None,
        outlasting: Callable[[H], list[bytes]] = lambda _: [],
    ) -> None:
        """`before_open` is awaited once a partition is ours, before its handler starts. `event`: makes an event's record.

        `outlasting(handler)`: values as of the state topic of what a handler did that no failed commit undoes (it called agents):
        the next handler gets them after what was committed, if this worker opens the partition again by itself.

        `connect`, `make_reader(options, topic)`: connections to the broker, replaced where it is simulated.
        """
        self.config = config
        self.processors: dict[int, PartitionProcessor] = {}
        self.ends: dict[TopicPartition, int] = {}
        """The ends of open partitions' logs when the watchdog last asked; also of those without room to fetch."""
        self.log_changes = 0
        """How often a log was found not to be the one that was read."""
        self.arbiter: Engine[Any] | None = None
        """The engine of the role that joined its group first, if it is not this one; see `_replaced`."""
        self.renewals = 0
        """How often the consumer was replaced."""
        self.assigned = asyncio.Event()
        self.lease = SessionLease(config.session_timeout_s, self._replaced)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connect = connect
        self._on_assigned = on_assigned
        self._names = {full_name(source, config.prefix): source for source in config.sources}
        self.wall_ms = wall_ms
        self.ages: RecordAges[TopicPartition] = RecordAges()
        """Ages of the oldest unfinished records, as `RetentionWatch` last saw them."""
        self.expired = ExpiredRecords(self._names, event, wall_ms)
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._started: list[_Start] = []
        self._owned: set[int] = set()
        self._losses = Losses()
        self._known: dict[int, dict[str, KeptOffset]] = {}
        self._room = asyncio.Event()
        self._releasing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._stopping = self._renewing = False
        self._outlasting = outlasting
        self._uncommitted: dict[int, list[bytes]] = {}
        """By partition number: the state kept after its last handler, if that could not commit."""
        self._growth = GrowthWatch(list(self._names), config.assignor)
        kept = inherited = None
        if config.state is not None:
            kept = KeptOffsets(config.group, config.state, wall_ms)
            make_reader = make_reader or partial(StateReader, exact_ends=config.exact_ends)
            reader = make_reader(config.options, full_name(config.state, config.prefix))
            inherited = InheritedState(config=config, state=config.state, reader=reader, kept=kept)
        self._opener = PartitionOpener(
            config=config,
            names=self._names,
            consumer=lambda: self.consumer,
            partition_count=lambda: self.partition_count,
            is_current=lambda: self.is_current(),
            make_committer=make_committer,
            make_handler=make_handler,
            before_open=before_open,
            on_room=lambda processor: self._room.set(),
            on_lost=self._restart,
            kept=kept,
            inherited=inherited,
            expired=self.expired,
        )
        self._consumer: AIOKafkaConsumer | None = None
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The group's consumer, once started."""
        if self._consumer is None:
            raise RuntimeError("the engine is not started")
        return self._consumer

    @property
    def partition_count(self) -> int:
        """The number of partition numbers in this generation; 0: none was assigned yet."""
        return self._growth.dealt_out

    @property
    def opened(self) -> list[PartitionProcessor]:
        """Partitions with a handler, also those not admitted yet: they must miss no control request."""
        return [*self.processors.values(), *(start.processor for start in self._started if not start.processor.closed)]

    def handlers(self) -> Iterator[H]:
        """The handlers of the partitions in `opened`; one that still opens has none yet."""
        return (cast("H", processor.handler) for processor in self.opened if processor.handler is not None)

    def handler(self, number: int) -> H | None:
        """The handler of a partition number, if it is open at this worker."""
        processor = self.processors.get(number)
        return None if processor is None or processor.closed else cast("H | None", processor.handler)

    @property
    def ready(self) -> bool:
        """Whether partitions are assigned and all of them are open."""
        return self.assigned.is_set() and all(n in self.processors and self.processors[n].ready for n in self._owned)

    def is_current(self) -> bool:
        """Whether this worker may act on its partitions: the group's coordinator confirmed it as a member within a
        session timeout.

        False in a worker that wakes from a freeze, until it has heard from the coordinator.
        """
        return self.lease.valid(asyncio.get_running_loop().time())

    async def has_name(self) -> bool:
        """Whether no other worker has joined this group under this worker's instance id."""
        return not self._failure.done() and self._consumer is not None and not await is_taken(self._consumer)

    async def failed(self) -> None:
        """Wait for an error that the engine cannot recover from and raise it. Never returns otherwise."""
        await asyncio.shield(self._failure)

    async def wait_ready(self) -> None:
        """Wait until every partition assigned to this worker is open."""
        while not self.ready:  # noqa: ASYNC110 - a state of several partitions, looked at during a start only
            await asyncio.sleep(0.02)

    async def start(self) -> None:
        """Join the group and begin to fetch. Raises `KafkaError`."""
        self._begin(await self._connect(self.config))

    def _begin(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.lease.watch(consumer)
        self.feed = Feed(
            consumer=consumer,
            processors=self.processors,
            names=self._names,
            room=self._room,
            failed=self._fail,
        )
        consumer.subscribe(list(self._names), listener=self)
        self._loop_task = asyncio.create_task(self._fetch_loop(), name=f"fetch-{self.config.group}")

    async def stop(self) -> None:
        """Drain, commit, leave. What is not finished within the drain time is left to the next owner."""
        self._stopping = True
        await self._end_loop()
        await self._release(self.config.stop_timeout_s)
        if self._consumer is not None:
            await group.close(self._consumer, self.config.drain_timeout_s)

    async def renew(self) -> None:
        """Give up a broken consumer and join again with a new one; waits for unreachable brokers."""
        self._renewing = True
        self.renewals += 1
        try:
            self.assigned.clear()
            await self._end_loop()
            await self._release(self.config.drain_timeout_s)
            await group.close(self.consumer, self.config.drain_timeout_s)
            consumer = await group.connected_again(self.config, lambda: self._stopping, self._connect)
        except KafkaError as error:
            self._fail(error)
            return
        finally:
            self._renewing = False
        if consumer is not None:
            self._begin(consumer)

    async def _end_loop(self) -> None:
        """Wait for the end of the fetch loop, or cancel it: a broken consumer may hold it."""
        self._room.set()
        if self._loop_task is not None:
            _, stuck = await asyncio.wait([self._loop_task], timeout=self.config.drain_timeout_s)
            for task in stuck:
                task.cancel()
                await asyncio.wait(stuck, timeout=1)
            self.feed.close()

    # Assignment

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Drain, commit, fence ourselves: all partitions at once, each within the drain time (assignment here is
        eager).
        """
        self.assigned.clear()
        await self._release(self.config.drain_timeout_s)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Pause everything until its partition is open. No heartbeat is sent during this call, so tasks do the
        opening.
        """
        if self._stopping or self._renewing:
            return
        self.consumer.pause(*assigned)
        self._growth.assigned(self.consumer)
        # A leader of an older version may deal out numbers that not all topics have.
        numbers = Counter(tp.partition for tp in assigned)
        self._owned = {number for number, topics in numbers.items() if topics == len(self._names)}
        self._on_assigned()
        for number in sorted(self._owned):
            self._start_processor(number)
        self.assigned.set()

    async def _release(self, timeout_s: float) -> None:
        """Close every partition. A second caller waits for a release under way: a group that rebalances while this
        worker stops must not give its partitions away before their calls have ended and are committed.
        """
        async with self._releasing:
            await self._release_all(timeout_s)

    async def _release_all(self, timeout_s: float) -> None:
        self._owned = set()
        self._known.clear()
        self._uncommitted.clear()
        for task in self._starting.values():
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting.values())
        self._starting.clear()
        for start in self._started:
            await start.processor.close()
        self._started.clear()
        processors = list(self.processors.values())
        self.processors.clear()
        drained = await asyncio.gather(
            *(processor.drain(timeout_s) for processor in processors), return_exceptions=True
        )
        for outcome in drained:
            if isinstance(outcome, BaseException):
                log.error("a partition did not end cleanly", error=repr(outcome))

    def _start_processor(self, number: int) -> None:
        self._starting[number] = asyncio.create_task(self._open(number), name=f"open-{number}")

    async def _open(self, number: int) -> None:
        """Read what is committed and hand over to the fetch loop; repeated until it works or the partition is
        revoked.
        """
        try:
            processor, heads = await self._opener.open(
                number, lambda: self._known.get(number, {}), lambda: self._uncommitted.get(number, [])
            )
        except Exception as error:
            self._fail(error)
            return
        self._starting.pop(number, None)
        self._started.append(_Start(processor, heads))
        self._room.set()

    def _keep_uncommitted(self, processor: PartitionProcessor) -> None:
        """The state kept after a handler has ended, until the group rebalances: then another owner may know more."""
        if processor.handler is not None:
            self._uncommitted[processor.number] = self._outlasting(cast("H", processor.handler))

    def _restart(self, processor: PartitionProcessor, error: CommitFailed) -> None:
        """A partition was fenced or lost its position: open it again from what is committed, unless it is no longer
        ours.
        """
        self._known[processor.number] = processor.logs
        losses = self._losses.lost(processor.number, committed=bool(processor.commits), transient=error.transient)
        log.warning(
            "a partition was closed after an error; reopening",
            partition=processor.number,
            losses=losses,
            reason=str(error),
        )
        if self._losses.is_hopeless(processor.number):
            starts = self._losses.hopeless(processor.number)
            self._fail(RuntimeError(f"partition {processor.number} could not commit in {starts} starts: {error}"))
            return
        self._on_assigned()  # a topic that changed may have caused it
        if self.processors.get(processor.number) is processor:
            del self.processors[processor.number]
        self._spawn(self._reopen(processor, losses, self._owned))

    async def _reopen(self, processor: PartitionProcessor, losses: int, owned: set[int]) -> None:
        """`owned`: the numbers of the assignment in which it was lost."""
        if processor.number not in self.processors:  # else a newer partition of this number runs already
            self._pause(processor)
        await processor.close()
        if processor.lost and owned is self._owned and processor.number in owned:
            self._keep_uncommitted(processor)
        await asyncio.sleep(self._losses.pause_s(losses, session_timeout_s=self.config.session_timeout_s))
        taken = {*self._starting, *self.processors, *(start.processor.number for start in self._started)}
        if processor.number in self._owned and processor.number not in taken and not self._stopping:
            self._start_processor(processor.number)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _pause(self, processor: PartitionProcessor) -> None:
        with contextlib.suppress(IllegalStateError):
            self.consumer.pause(*processor.partitions.values())

    async def _replaced(self, consumer: AIOKafkaConsumer) -> bool:
        """The group no longer knows this member. It joins again, unless another member has its instance id.

        Of two workers that start at the same moment under one instance id, each may be replaced in the group of another role, and
        both would end. So the group that both joined first decides: who still has the name there joins again here.
        """
        if not await is_taken(consumer):
            return False
        if self.arbiter is not None and await self.arbiter.has_name():
            log.warning("another worker joined this group under the same instance id; this worker takes it back",
                        group=self.config.group, instance_id=self.config.instance_id)  # fmt: skip
            return False
        why = f"another worker joined group {self.config.group} as instance id {self.config.instance_id!r}"
        self._fail(RuntimeError(f"{why}; give each worker a different --instance-id"))
        return True

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # retrieved: `failed` raises it again
        self._stopping = True
        self._room.set()

    # Fetching

    async def _fetch_loop(self) -> None:
        try:
            while not (self._stopping or self._renewing):
                self._admit()
                if self.assigned.is_set():
                    self._growth.check(self.consumer, asyncio.get_running_loop().time())
                await self.feed.turn(hurry=bool(self._started))
        except Exception as error:
            log.exception("fetching failed")
            self._fail(error)

    def _admit(self) -> None:
        """Admit partitions that became ready. Only here, between two fetches, is no older batch on its way."""
        while self._started:
            start = self._started.pop()
            processor = start.processor
            if processor.closed or processor.number not in self._owned:
                self._spawn(processor.close())
                continue
            try:
                for source, tp in processor.partitions.items():
                    self.consumer.seek(tp, start.heads[source])
                    watch_resets(self.consumer, tp, partial(processor.expire, source))
                self.consumer.resume(*processor.partitions.values())
            except IllegalStateError:
                # A rebalance began (then it is no longer ours), or one of its topics is assigned elsewhere.
                log.info("partition is not assigned whole; trying again", partition=processor.number)
                self._spawn(self._reopen(processor, 1, self._owned))
                continue
            processor.ready = True
            self.processors[processor.number] = processor
