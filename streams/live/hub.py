"""Distributes one reading of the topic to all watchers. The topic is read while there are watchers, and a while longer.

In: records, and watchers that join and leave. Out: for each watcher the batches it has not received, in one order, with
a cursor to resume from. Every watcher has its own bounded queue: a slow one loses its oldest events and gets their
number. Nothing here waits for a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import orjson
import structlog
from aiokafka.structs import ConsumerRecord

from schemas.times import format_time
from streams.live.reading import BACK, Taker
from streams.rules.live.cursor import encode
from streams.rules.live.entries import Entry, EntryBuffer, entry, merged
from streams.rules.live.query import WatchRequest
from streams.rules.live.rates import Rates

log = structlog.get_logger(__name__)

MAX_WATCHERS = 20
MOST = 2000
MOST_BYTES = 4 * 1024 * 1024
BATCH = 250
BATCH_BYTES = 512 * 1024
LINGER_S = 10.0
"""Reading continues this long after the last watcher left: it may only reload its page."""


class TooManyWatchers(Exception):
    """The limit of watchers is reached; one line."""


class EventReader(Protocol):
    """Reads the topic; implemented by `TopicReader`."""

    def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""

    async def ends(self) -> dict[int, int]:
        """The end of each partition."""


class Watcher:
    """A client that watches since `joined_ms`: its queue."""

    def __init__(self, watch_request: WatchRequest, joined_ms: int) -> None:
        self.watch_request = watch_request
        self._joined_ms = joined_ms
        self.seeded = False
        self._queue = EntryBuffer(MOST, MOST_BYTES)
        self._dropped = 0
        self._positions: dict[int, int] = dict(watch_request.after or {})
        self._not_before: dict[int, int] = {}
        self._wanted: dict[str, bool] = {}

    def seed(
        self,
        recent: Iterable[Entry],
        floor: Mapping[int, int],
        positions: Mapping[int, int],
        after: Mapping[int, int] | None,
    ) -> None:
        """Start, with the `recent` entries that were asked for.

        `floor`: the offsets from which on these are complete. `after`: where an earlier stream ended.
        """
        self.seeded = True
        if after is None:
            wanted = [one for one in recent if self._wants(one.kind)]
            # Events since it joined are new to it, even if reading has only begun then.
            last = max(self.watch_request.last, sum(one.at_ms >= self._joined_ms for one in wanted))
            first = wanted[len(wanted) - last :] if last < len(wanted) else wanted
            self._positions = dict(positions)
            for one in reversed(first):
                self._positions[one.partition] = one.offset
        else:
            first = list(recent)
            self._dropped += sum(max(0, begin - after[n]) for n, begin in floor.items() if n in after)
            self._not_before = {n: offset for n, offset in after.items() if offset > floor.get(n, 0)}
            self._positions = dict(floor) | dict(after)
        self.offer(first)
        self._not_before = {n: offset for n, offset in self._not_before.items() if offset > positions.get(n, 0)}

    def offer(self, entries: Iterable[Entry]) -> None:
        """Queue those of these newest entries that it wants."""
        for one in entries:
            if self._wants(one.kind) and not (self._not_before and one.offset < self._not_before.get(one.partition, 0)):
                for gone in self._queue.add(one):
                    self._positions[gone.partition] = gone.offset + 1
                    self._dropped += 1

    def _wants(self, kind: str) -> bool:
        known = self._wanted.get(kind)
        if known is None:
            known = self.watch_request.wants(kind)
            if len(self._wanted) < 100:
                self._wanted[kind] = known
        return known

    def batch(self) -> list[Entry]:
        """The entries to send next; they count as sent."""
        found: list[Entry] = []
        size = 0
        while self._queue and len(found) < BATCH and size < BATCH_BYTES:
            one = self._queue.pop()
            found.append(one)
            size += len(one.json)
            self._positions[one.partition] = one.offset + 1
        return found

    def dropped(self) -> int:
        """The number of entries lost since the last call."""
        count, self._dropped = self._dropped, 0
        return count

    def cursor(self, positions: Mapping[int, int]) -> str:
        """Where to resume after the entries of `batch`. `positions`: of the reading."""
        if not self._queue and self.seeded:  # no event in between is for this watcher
            for number, position in positions.items():
                self._positions[number] = max(position, self._not_before.get(number, 0))
        return encode(self._positions)


class Scene(Taker):
    """One reading, from the first watcher until none is left: the newest entries, positions and rates."""

    def __init__(self, watchers: Iterable[Watcher], wall_ms: Callable[[], int]) -> None:
        self.positions: dict[int, int] = {}
        self.rates = Rates()
        self.loaded = asyncio.Event()
        self._watchers = watchers
        self._wall_ms = wall_ms
        self._floor: dict[int, int] = {}
        self._recent = EntryBuffer(MOST, MOST_BYTES)
        self._history: dict[int, EntryBuffer] = {}
        self._trimmed: set[int] = set()

    def begins(self, positions: Mapping[int, int], trimmed: Sequence[int]) -> None:
        """See `Taker`."""
        self.positions |= positions
        self._floor |= positions
        self._trimmed.update(trimmed)

    def take(self, partition: int, records: Sequence[ConsumerRecord], position: int) -> None:
        now_ms = self._wall_ms()
        found = []
        for record in records:
            at_ms = record.timestamp if record.timestamp > 0 else now_ms
            one = entry(record.value, partition, record.offset, at_ms)
            if one is not None:
                found.append(one)
                self.rates.add(one.kind, at_ms, one.execution_ms, now_ms)
        if records and partition in self._trimmed:
            self._trimmed.discard(partition)
            self.rates.known_from(min(records[0].timestamp, now_ms))
        self.positions[partition] = position
        if not self.loaded.is_set():
            history = self._history.setdefault(partition, EntryBuffer(BACK, MOST_BYTES))
            for one in found:
                self._evict(history.add(one))
            return
        self._remember(found)
        for watcher in self._watchers:
            if watcher.seeded:
                watcher.offer(found)

    def caught_up(self) -> None:
        """See `Taker`."""
        self._remember(merged(history.entries for history in self._history.values()))
        self._history.clear()
        self.loaded.set()

    def seed(self, watcher: Watcher, after: Mapping[int, int] | None) -> None:
        """Give a watcher its first entries."""
        watcher.seed(self._recent.entries, self._floor, self.positions, after)

    def _remember(self, entries: Iterable[Entry]) -> None:
        for one in entries:
            self._evict(self._recent.add(one))

    def _evict(self, gone: Iterable[Entry]) -> None:
        for one in gone:
            self._floor[one.partition] = one.offset + 1


class Hub:
    """All watchers of this worker."""

    def __init__(
        self, reader: Callable[[Taker], EventReader], wall_ms: Callable[[], int], linger_s: float = LINGER_S
    ) -> None:
        self.closed = asyncio.Event()
        self._make_reader = reader
        self._wall_ms = wall_ms
        self._linger_s = linger_s
        self._watchers: list[Watcher] = []
        self._scene: Scene | None = None
        self._reader: EventReader | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._metrics: tuple[int, bytes] = (-1, b"")

    @property
    def reading(self) -> bool:
        """Whether the topic is read now."""
        return self._reader is not None

    @property
    def watchers(self) -> int:
        """How many streams are open."""
        return len(self._watchers)

    def join(self, watch_request: WatchRequest) -> Watcher:
        """Add a watcher. Raises `TooManyWatchers`."""
        if self.closed.is_set():
            raise TooManyWatchers("this worker is stopping")
        if self.watchers >= MAX_WATCHERS:
            raise TooManyWatchers(f"too many streams are open: this worker accepts at most {MAX_WATCHERS}")
        watcher = Watcher(watch_request, self._wall_ms())
        self._watchers.append(watcher)
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._scene is None:
            self._scene = Scene(self._watchers, self._wall_ms)
            self._reader = self._make_reader(self._scene)
            self._reader.start()
        return watcher

    async def begin(self, watcher: Watcher) -> bool:
        """Give the watcher its first entries, if they are known by now; returns whether it has them."""
        scene, reader, after = self._scene, self._reader, watcher.watch_request.after
        if watcher.seeded or scene is None or reader is None or not scene.loaded.is_set():
            return watcher.seeded
        if after is not None and any(offset > scene.positions.get(n, 0) for n, offset in after.items()):
            # Another worker read further than this one so far; or the topic was recreated, and that place is of the old one.
            ends = await reader.ends()
            after = {
                n: offset
                for n, offset in after.items()
                if offset <= max(ends.get(n, offset), scene.positions.get(n, 0))
            }
        if scene is self._scene:
            scene.seed(watcher, after)
        return watcher.seeded

    def leave(self, watcher: Watcher) -> None:
        self._watchers.remove(watcher)
        if not self._watchers and self._scene is not None:
            self._ending = asyncio.get_running_loop().call_later(self._linger_s, self._end)

    def _end(self) -> None:
        reader, self._reader, self._scene = self._reader, None, None
        self._ending = None
        if reader is not None:
            task = asyncio.create_task(reader.stop(), name="live-stop")
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Accept no more watchers; streams see `closed` and end."""
        self.closed.set()
        if self._ending is not None:
            self._ending.cancel()
        self._end()
        await asyncio.gather(*self._stopping)

    def cursor(self, watcher: Watcher) -> str | None:
        """Where this watcher resumes when it returns; None while unknown."""
        return watcher.cursor(self._scene.positions) if self._scene is not None and watcher.seeded else None

    def metrics(self) -> bytes:
        """Figures of the last ten seconds as JSON, computed once a second for all watchers."""
        now_ms = self._wall_ms()
        if self._metrics[0] != now_ms // 1000:
            rates = Rates() if self._scene is None else self._scene.rates
            row: dict[str, Any] = {"time": format_time(now_ms), **rates.row(now_ms), "watchers": self.watchers}
            self._metrics = now_ms // 1000, orjson.dumps(row)
        return self._metrics[1]
