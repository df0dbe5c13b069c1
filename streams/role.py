"""What the roles of a worker share: start, stop, readiness, and which partitions they own.

In: what the worker found at the broker. Out: for a role over partitions, its engine, with its writers, readers and
watchers. The role's handler processes the records.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol

from prometheus_client import CollectorRegistry

from schemas.access import role_group
from streams.broker.kafka import client_options
from streams.broker.retention import retention_ms
from streams.engine.aligned import AlignedAssignor
from streams.engine.batcher import DEFAULT_LIMIT, Batcher
from streams.engine.committers import Committers
from streams.engine.config import Belongs, EngineConfig
from streams.engine.engine import Engine, H
from streams.engine.event_sink import EventSink
from streams.engine.expired_records import Recorded
from streams.engine.log_check import LogCheck
from streams.engine.partition_processor import PartitionProcessor
from streams.engine.partition_status import PartitionStatus, partition_statuses
from streams.engine.record_reader import RecordReader
from streams.engine.retention_watch import RetentionWatch
from streams.engine.state_reader import PartitionReader
from streams.engine.supervised import run_beside
from streams.engine.watchdog import LOOKS, Watchdog
from streams.settings import RoleName, Settings
from streams.tracing.export import Provider

if TYPE_CHECKING:  # a worker without tracing does not pay for it
    from streams.tracing.spans import Tracing

END_TIMEOUT_S = 10.0
RECORD_ROOM = 16 * 1024
"""Bytes of a batch on `tasks` reserved for the key and the headers beside a task."""
Watchers = Mapping[str, Callable[[], Coroutine[Any, Any, None]]]


class Role(Protocol):
    """One of a worker's roles, with the interface that the worker and its pages use."""

    @property
    def name(self) -> RoleName:
        """The name in the setting `roles`."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it has its partitions and works."""
        ...

    async def wait_ready(self) -> None: ...

    async def failed(self) -> None:
        """Wait for an error that the role cannot recover from and raise it. Never returns otherwise."""
        ...

    def partition_statuses(self) -> Iterable[PartitionStatus]:
        """Its position in each topic partition it owns."""
        ...


@dataclass(frozen=True, slots=True)
class RoleParts:
    """What a worker gives its roles.

    `partitions`: partitions of the intake topics at the start; `size_limits`: topic (short name) -> largest record in
    bytes; `address`: this worker's for others; `spans`: makes the trace spans, if tracing is on.
    """

    settings: Settings
    registry: CollectorRegistry
    transactional: bool
    partitions: int
    size_limits: Mapping[str, int]
    address: str = ""
    spans: Provider | None = None


class EngineRole(Generic[H]):
    """A role over partitions. `engine` exists once the role is made, and runs once it is started."""

    name: RoleName
    engine: Engine[H]

    def __init__(self, parts: RoleParts, *, sources: Sequence[str], state: str, belongs: Belongs) -> None:
        """`state`: the topic of the state that moves with the partitions; `belongs`: which of its rows an added
        partition takes over.
        """
        self.settings = parts.settings
        self.prefix = parts.settings.topic_prefix
        self.options = client_options(parts.settings)
        self.group = role_group(parts.settings.app_id, self.name, self.prefix)
        self.sink = EventSink(
            options=self.options, prefix=self.prefix, idempotent=parts.transactional, clock_topic=state
        )
        self.now_ms = self.sink.clock.now_ms
        self.reader = RecordReader(self.options, self.prefix)
        self.parts = parts
        self._sources = sources
        self._state = state
        self._belongs = belongs
        self._batcher = Batcher(self.prefix, parts.size_limits, self.now_ms)

    @property
    def ready(self) -> bool:
        return self.engine.ready

    async def wait_ready(self) -> None:
        await self.engine.wait_ready()

    async def failed(self) -> None:
        await self.engine.failed()

    def partition_statuses(self) -> Iterable[PartitionStatus]:
        return partition_statuses(self.engine)

    def partition_count(self) -> int:
        """How many partition numbers there are."""
        return self.engine.partition_count or self.parts.partitions

    def max_task_bytes(self) -> int:
        """The largest task that the role may write to `tasks`, as JSON."""
        topic_limit = self.parts.size_limits.get("tasks", DEFAULT_LIMIT) - RECORD_ROOM
        return min(self.settings.dispatch.max_task_bytes, topic_limit)

    def events_dropped(self) -> int:
        """Progress events that could not be sent so far."""
        return self.sink.dropped

    def tracing(self) -> Tracing | None:
        """Makes the role's spans, if tracing is on."""
        return None if self.parts.spans is None else self.parts.spans.role(self.name, self.settings)

    def make_engine(
        self,
        make_handler: Callable[[PartitionProcessor, list[bytes]], H],
        *,
        commit_interval_max_ms: int,
        event: Recorded,
        from_end: Callable[[Sequence[bytes]], Sequence[str]] | None = None,
        assignor: AlignedAssignor | None = None,
        before_open: Callable[[], Awaitable[None]] | None = None,
        make_reader: Callable[[dict[str, Any], str], PartitionReader] | None = None,
        outlasting: Callable[[H], list[bytes]] = lambda _: [],
    ) -> Engine[H]:
        """The engine over the role's partitions. Times in milliseconds; other arguments as in `EngineConfig` and
        `Engine`.
        """
        config = EngineConfig.of(
            self.settings,
            self.options,
            group=self.group,
            sources=self._sources,
            state=self._state,
            exact_ends=self.parts.transactional,
            from_end=from_end,
            assignor=assignor,
            belongs=self._belongs,
        )
        self._committers = Committers(
            config,
            self._state,
            self._batcher,
            transactional=self.parts.transactional,
            interval_max_s=commit_interval_max_ms / 1000,
            producer=lambda: self.sink.producer,
            is_current=lambda: self.engine.is_current(),
        )
        return Engine(
            config=config,
            make_committer=self._committers.make,
            make_handler=make_handler,
            on_assigned=self._batcher.forget_partition_counts,
            wall_ms=self.now_ms,
            event=event,
            before_open=before_open,
            make_reader=make_reader,
            outlasting=outlasting,
        )

    async def start_engine(self, stack: AsyncExitStack) -> None:
        """Join the group. `stack` drains and leaves it, then closes its writers and readers. Raises `KafkaError`."""
        stack.push_async_callback(self.reader.close)
        stack.push_async_callback(self._committers.close)
        stack.push_async_callback(self.engine.stop)
        await self.engine.start()

    def watch(self, stack: AsyncExitStack, more: Watchers) -> None:
        """Watch the partitions from outside, until `stack` ends."""
        after_s = self.settings.dispatch.stall_after / 1000
        watchers = {
            "watchdog": Watchdog(self.engine, after_s).run,
            "log-check": LogCheck(self.engine, after_s / LOOKS, self.reader.read).run,
            **more,
        }
        run_beside(stack, {f"{self.name}-{what}": run for what, run in watchers.items()}, END_TIMEOUT_S)

    def retention_watch(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """The watcher of records that may expire unfinished."""
        watch = RetentionWatch(self.engine, self.reader.read, lambda: retention_ms(self.settings, self._sources))
        return watch.run
