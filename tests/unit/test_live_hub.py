"""Who looks on gets what they asked for, once, in order; slow ones lose their own; nothing is read for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from streams.live import hub as hub_module
from streams.live.hub import BATCH, MAX_WATCHERS, MOST, Hub, TooManyWatchers, Watcher
from streams.live.reading import Taker
from streams.rules.live.cursor import decode
from streams.rules.live.query import WatchRequest

pytestmark = pytest.mark.virtual_time

NOW_MS = 1_795_348_800_000


class FakeReader:
    """Notes that it was started and stopped; what is read is given to its taker by the test."""

    def __init__(self, taker: Taker) -> None:
        self.taker = taker
        self.started = self.stopped = False
        self.end_offsets: dict[int, int] = {}

    def start(self) -> None:
        """As `TopicReader`."""
        self.started = True

    async def stop(self) -> None:
        """As `TopicReader`."""
        self.stopped = True

    async def ends(self) -> dict[int, int]:
        """As `TopicReader`."""
        return self.end_offsets


class Rig:
    """A hub with readers of ours, and a topic of two partitions."""

    def __init__(self, linger_s: float = 10.0) -> None:
        self.readers: list[FakeReader] = []
        self.hub = Hub(self._reader, lambda: NOW_MS, linger_s)

    def _reader(self, taker: Taker) -> FakeReader:
        self.readers.append(FakeReader(taker))
        return self.readers[-1]

    @property
    def taker(self) -> Any:
        """Of the present reading."""
        return self.readers[-1].taker

    def write(self, partition: int, offsets: Iterable[int], kind: str = "task:started") -> None:
        """Records that are read now, written a millisecond after each other."""
        rows = [
            SimpleNamespace(
                offset=n,
                timestamp=NOW_MS - 5000 + n,
                value=orjson.dumps({"id": f"{partition}/{n}", "type": kind, "timestamp": "T", "data": {}}),
            )
            for n in offsets
        ]
        self.taker.take(partition, rows, rows[-1].offset + 1)

    def load(self, **begins: int) -> None:
        """The reading begins there, and has reached its end."""
        self.taker.begins({int(name[1:]): offset for name, offset in begins.items()}, ())
        self.taker.caught_up()

    async def joined(self, watch_request: WatchRequest | None = None) -> Watcher:
        """A watcher that has what it begins with."""
        watcher = self.hub.join(watch_request or WatchRequest())
        assert await self.hub.begin(watcher)
        return watcher


def ids(watcher: Watcher) -> list[str]:
    """All it is to be sent now."""
    found: list[str] = []
    while batch := watcher.batch():
        assert len(batch) <= BATCH
        found += [orjson.loads(one.json)["id"] for one in batch]
    return found


async def test_nothing_is_read_before_the_first_watcher_nor_long_after_the_last() -> None:
    """One reading for all; one who comes back soon finds it still there."""
    rig = Rig(linger_s=0.1)
    assert not rig.readers
    one, two = rig.hub.join(WatchRequest()), rig.hub.join(WatchRequest())
    assert [reader.started for reader in rig.readers] == [True]
    rig.hub.leave(one)
    rig.hub.leave(two)
    await asyncio.sleep(0.02)
    assert not rig.readers[0].stopped
    one = rig.hub.join(WatchRequest())
    await asyncio.sleep(0.2)
    assert not rig.readers[0].stopped
    assert len(rig.readers) == 1
    rig.hub.leave(one)
    assert rig.hub.reading
    await asyncio.sleep(0.2)
    assert rig.readers[0].stopped
    assert not rig.hub.reading
    rig.hub.join(WatchRequest())
    assert len(rig.readers) == 2
    await rig.hub.close()
    assert rig.readers[1].stopped


async def test_history_comes_in_the_order_of_time_and_only_the_last_of_it() -> None:
    """Over partitions; then what is new."""
    rig = Rig()
    watcher = rig.hub.join(WatchRequest(last=3))
    rig.taker.begins({0: 0, 1: 0}, ())
    rig.write(0, (0, 2, 4))
    rig.write(1, (1, 3, 5))
    assert not await rig.hub.begin(watcher)
    assert rig.hub.cursor(watcher) is None
    rig.taker.caught_up()
    assert await rig.hub.begin(watcher)
    rig.write(0, (6,))
    assert ids(watcher) == ["1/3", "0/4", "1/5", "0/6"]
    assert watcher.dropped() == 0
    assert ids(await rig.joined(WatchRequest(last=1))) == ["0/6"]
    assert ids(await rig.joined(WatchRequest(last=0))) == []


async def test_what_happens_while_reading_begins_is_news() -> None:
    """Also for one who wants nothing from before."""
    rig = Rig()
    watcher = rig.hub.join(WatchRequest(last=0))
    rig.taker.begins({0: 0}, ())
    rig.write(0, (4997, 4998, 5000, 5001))
    rig.taker.caught_up()
    await rig.hub.begin(watcher)
    assert ids(watcher) == ["0/5000", "0/5001"]


@pytest.mark.parametrize("cut", range(1, 8))
async def test_coming_back_goes_on_without_gap_or_double_wherever_it_was_cut(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in another worker, whose reading begins anew."""
    rig = Rig()
    watcher = rig.hub.join(WatchRequest())
    rig.load(p0=0, p1=0)
    await rig.hub.begin(watcher)
    for n in range(6):
        rig.write(n % 2, (n * 10,))
    monkeypatch.setattr(hub_module, "BATCH", cut)
    seen = [orjson.loads(one.json)["id"] for one in watcher.batch()]
    assert len(seen) == min(cut, 6)
    cursor = rig.hub.cursor(watcher)
    assert cursor is not None
    back = await rig.joined(WatchRequest(after=decode(cursor)))
    other = Rig()
    elsewhere = other.hub.join(WatchRequest(after=decode(cursor)))
    other.taker.begins({0: 0, 1: 0}, ())
    other.write(1, (10, 30, 50))
    other.write(0, (0, 20, 40))
    other.taker.caught_up()
    await other.hub.begin(elsewhere)
    for run, one in ((rig, back), (other, elsewhere)):
        run.write(0, (60,))
        assert sorted(seen + ids(one)) == sorted([f"{n % 2}/{n * 10}" for n in range(6)] + ["0/60"])
        assert one.dropped() == 0


async def test_a_worker_that_has_read_less_sends_nothing_twice() -> None:
    """The cursor is ahead of it: what it reads up to there was sent elsewhere."""
    rig = Rig()
    watcher = rig.hub.join(WatchRequest(after={0: 5, 1: 0}))
    rig.load(p0=0, p1=0)
    rig.readers[0].end_offsets = {0: 8, 1: 0}
    await rig.hub.begin(watcher)
    cursor = rig.hub.cursor(watcher)
    assert cursor is not None
    assert decode(cursor) == {0: 5, 1: 0}
    rig.write(0, range(8))
    assert ids(watcher) == ["0/5", "0/6", "0/7"]


async def test_a_cursor_of_a_topic_that_was_made_anew_hides_nothing() -> None:
    """Its place lies beyond the end."""
    rig = Rig()
    watcher = rig.hub.join(WatchRequest(after={0: 5000}))
    rig.taker.begins({0: 0}, ())
    rig.write(0, range(3))
    rig.taker.caught_up()
    rig.readers[0].end_offsets = {0: 3}
    await rig.hub.begin(watcher)
    rig.write(0, (3,))
    assert ids(watcher) == ["0/0", "0/1", "0/2", "0/3"]


async def test_one_who_was_away_too_long_is_told_what_is_missing() -> None:
    """What is no longer kept."""
    rig = Rig()
    rig.hub.join(WatchRequest())
    rig.load(p0=0)
    rig.write(0, range(MOST + 30))
    back = await rig.joined(WatchRequest(after={0: 10}))
    assert back.dropped() == 20
    assert ids(back) == [f"0/{n}" for n in range(30, MOST + 30)]
    assert back.dropped() == 0


async def test_a_slow_one_loses_its_oldest_and_the_others_nothing() -> None:
    """Bounded, counted; the cursor goes beyond what was lost."""
    rig = Rig()
    slow, quick = rig.hub.join(WatchRequest()), rig.hub.join(WatchRequest())
    rig.load(p0=0)
    await rig.hub.begin(slow)
    await rig.hub.begin(quick)
    got: list[str] = []
    for begin in range(0, 3 * MOST, 500):
        rig.write(0, range(begin, begin + 500))
        got += ids(quick)
    assert got == [f"0/{n}" for n in range(3 * MOST)]
    assert quick.dropped() == 0
    cursor = rig.hub.cursor(slow)
    assert cursor is not None
    assert decode(cursor) == {0: 2 * MOST}
    assert slow.dropped() == 2 * MOST
    assert slow.dropped() == 0
    assert ids(slow) == [f"0/{n}" for n in range(2 * MOST, 3 * MOST)]


async def test_types_choose_and_the_cursor_moves_on_all_the_same() -> None:
    """Numbers are of all events, whatever is asked for."""
    rig = Rig()
    watcher = rig.hub.join(WatchRequest(types=("circuit:",)))
    rig.load(p0=0)
    await rig.hub.begin(watcher)
    rig.write(0, range(5))
    rig.write(0, (5,), "circuit:open")
    rig.write(0, range(6, 9))
    assert ids(watcher) == ["0/5"]
    cursor = rig.hub.cursor(watcher)
    assert cursor is not None
    assert decode(cursor) == {0: 9}
    row = orjson.loads(rig.hub.metrics())
    assert row["perSecond"] == {"circuit:open": 0.1, "task:started": 0.8}
    assert row["watchers"] == 1


async def test_there_is_a_most_of_watchers_and_none_after_the_end() -> None:
    """The next is told why."""
    rig = Rig()
    watchers = [rig.hub.join(WatchRequest()) for _ in range(MAX_WATCHERS)]
    with pytest.raises(TooManyWatchers, match="at most 20"):
        rig.hub.join(WatchRequest())
    rig.hub.leave(watchers[0])
    rig.hub.join(WatchRequest())
    await rig.hub.close()
    with pytest.raises(TooManyWatchers, match="is stopping"):
        rig.hub.join(WatchRequest())
