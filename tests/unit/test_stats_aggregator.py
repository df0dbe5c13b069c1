"""What the clock says of a series is written before it is told, so that a crash in between leaves no alarm without an end."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from schemas.messages import ConfidenceDataPoint
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.log_identity import Mark
from streams.rules.windows.windows import Span
from streams.settings import Settings
from streams.statistics import aggregator as aggregator_module
from streams.statistics import event_clocks
from streams.statistics.aggregator import MAX_BATCH, Aggregator
from streams.statistics.outputs import StatsRecorder
from streams.statistics.state import State
from streams.statistics.table import Recovery
from tests.support.points import compare

SPANS: Any = {"minute": Span(60_000, 30_000, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}

NOW_MS = 1_795_348_800_000
DAY_MS = 86_400_000
END_MS = 253_402_300_799_999
"""The last time that can be written."""


class Crashed(Exception):
    """The process ends here."""


class Table:
    """Keeps rows, as the changelog would."""

    has_overtaken = False

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.recovery = Recovery({}, set())

    def overtaken(self) -> list[Any]:
        """No row lies beneath an older one."""
        return []

    async def write(self, rows: Any) -> None:
        """All of them, or the removal of those without a value."""
        for key, value in rows:
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value


class Consumer:
    """A consumer that has counted the whole log, and asks nobody whose the partitions are."""

    def __init__(self) -> None:
        self.end = self.position = 0
        self.owned = True
        self.resume_offsets: dict[int, int] = {}

    def positions(self) -> dict[int, int]:
        """Everything is counted."""
        return {0: self.position}

    async def log_ends(self, source_log: object) -> dict[int, int]:
        """Where the log ends."""
        return {0: self.end}

    async def accept(self, message: Any) -> bool:
        """Nothing was read of another's partition."""
        return True

    async def confirm_ownership(self) -> bool:
        """What the group says."""
        return self.owned

    def done(self, message: Any) -> None:
        """One more is counted."""
        self.position = max(self.position, message.offset + 1)


class World:
    """A folder over a table that outlives it; `sent`: outputs by topic; `now_ms`: the wall clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table = Table()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.crash_when_telling = self.crash_before_telling = False
        self.now_ms = NOW_MS
        self.consumer = Consumer()
        self.resumed: dict[int, int] = {}
        monkeypatch.setattr(aggregator_module, "send_all", self._send)
        wall = SimpleNamespace(time=lambda: self.now_ms / 1000, monotonic=time.monotonic)
        monkeypatch.setattr(aggregator_module, "time", wall)
        monkeypatch.setattr(event_clocks, "time", wall)

    async def _send(self, batcher: object, producer: object, outputs: Any) -> None:
        if self.crash_before_telling and any(output.topic == "anomalies" for output in outputs):
            raise Crashed
        self.sent += [(output.topic, orjson.loads(output.value)) for output in outputs]
        if self.crash_when_telling and self.anomalies():
            raise Crashed

    async def start(self) -> Aggregator:
        """A new process, after recovery; nothing is known of the log's end."""
        aggregator = Aggregator(StatsRecorder(Settings(), "stats"), lambda error: None)
        state = State(table=cast("Any", self.table), spans=SPANS, limits=Thresholds())
        nothing: Any = None
        aggregator.attach(
            state,
            cast("Any", self.table),
            nothing,
            lambda: cast("Any", self.consumer),
            lambda: nothing,
            cast("Any", SimpleNamespace(resume_offsets=self._resume_offsets)),
        )
        await aggregator.load()
        return aggregator

    async def _resume_offsets(self, marks: object) -> dict[int, int]:
        return self.resumed

    async def look(self, aggregator: Aggregator, *, after_ms: int = 0) -> None:
        """`after_ms` later the log's end is asked for, and the clock looks at every series."""
        self.now_ms += after_ms
        await aggregator.ask_log_ends()
        await aggregator.tick()

    async def read(
        self, aggregator: Aggregator, points: Iterable[dict[str, Any]], begin: int, *, stamp_ms: int = 0
    ) -> int:
        """Points from the log, counted and written as one batch; returns the next offset."""
        offset = begin
        for point in points:
            stamp_s = (stamp_ms or self.now_ms) / 1000
            message = SimpleNamespace(
                value=orjson.dumps(point), headers=(), timestamp=stamp_s, partition=0, offset=offset, key=b"a"
            )
            await aggregator.take(cast("Any", message))
            offset += 1
            self.consumer.end = max(self.consumer.end, offset)
            if aggregator.pending == MAX_BATCH:  # more than a few would not be taken
                await aggregator.count_batch()
        while aggregator.pending:
            await aggregator.count_batch()
        return offset

    def anomalies(self) -> list[dict[str, Any]]:
        """What has been told, in order."""
        return [value for topic, value in self.sent if topic == "anomalies"]

    def aggregates(self) -> list[dict[str, Any]]:
        """Windows as they were published, in order."""
        return [value for topic, value in self.sent if topic == "aggregates"]


async def fill(world: World, aggregator: Aggregator, begin_ms: int) -> None:
    """7200 points, one a second, as if they had been read an hour ago, and written."""
    for offset in range(7200):
        live = aggregator.state.apply(_point(begin_ms, offset), 0, offset)
    live.series.anomalies.clear()
    live.series.arrived_ms = world.now_ms - 3_600_000
    await world.table.write(aggregator.state.rows(live))


def _point(begin_ms: int, offset: int, agent_id: str = "a") -> ConfidenceDataPoint:
    return ConfidenceDataPoint(
        agent_id=agent_id,
        pattern_name="p",
        task_type="agent",
        confidence=0.8 + offset % 3 / 100,
        success=True,
        timestamp=begin_ms + offset * 1000,
        execution_time=10,
    )


async def test_a_crash_when_the_clock_has_told_leaves_an_alarm_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends as `silent` is told; the next one reads a point first, or looks at the clock."""
    world = World(monkeypatch)
    begin_ms = world.now_ms - 10_800_000
    await fill(world, await world.start(), begin_ms)

    world.crash_when_telling = True
    with pytest.raises(Crashed):
        await world.look(await world.start())
    (told,) = world.anomalies()
    assert (told["type"], told["state"]) == ("silent", "firing")
    world.crash_when_telling = False

    def spoken(aggregator: Aggregator) -> list[tuple[str, str, str]]:
        live = aggregator.state.apply(_point(begin_ms, 10_700), 0, 7200)
        return [(a.type, a.state, a.id) for a in live.series.anomalies]

    begin, end = ("silent", "firing", told["id"]), ("silent", "resolved", told["id"])
    assert spoken(await world.start()) == [begin, end]
    for _ in range(2):
        await world.look(await world.start())
    assert world.anomalies() == [told, told]
    assert spoken(await world.start()) == [end]


async def test_a_crash_before_the_clock_has_told_leaves_no_window_unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored state says that the windows are closed, so the next owner publishes them no more."""

    async def closed(*, crash: bool) -> set[tuple[str, str, int]]:
        world = World(monkeypatch)
        await fill(world, await world.start(), NOW_MS - 10_800_000)
        world.crash_before_telling = crash
        with pytest.raises(Crashed) if crash else nullcontext():
            await world.look(await world.start())
        world.crash_before_telling = False
        await world.look(await world.start())
        assert world.anomalies()
        published = [(one["interval"], one["windowStart"], one["count"]) for one in world.aggregates() if one["final"]]
        assert crash or len(published) == len(set(published)), "once each"
        return set(published)

    undisturbed = await closed(crash=False)
    assert len(undisturbed) > 1
    assert await closed(crash=True) == undisturbed


async def test_verdicts_about_an_agent_are_no_word_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stopped an hour ago; what comes are outcomes of its old tasks."""
    world = World(monkeypatch)
    begin_ms = world.now_ms - 10_800_000
    await fill(world, await world.start(), begin_ms)
    aggregator = await world.start()

    await world.read(aggregator, [_feedback(_point(begin_ms, 7100))], 7200)
    await world.look(aggregator)
    assert [a["type"] for a in world.anomalies()] == ["silent"]

    aggregator = await world.start()
    await world.read(aggregator, [_point(begin_ms, 10_790).wire()], 7201)
    await world.look(aggregator)
    assert [a["state"] for a in world.anomalies()] == ["firing", "resolved"]


def _feedback(point: ConfidenceDataPoint) -> dict[str, Any]:
    return point.model_copy(update={"feedback": True, "task_id": "t"}).wire()


@pytest.mark.parametrize("answers", [True, False], ids=["points wait to be counted", "the log's end is not known"])
async def test_what_has_not_been_read_is_no_silence(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    """An hour without a record, for a consumer that stands still before the log's end, or cannot ask for it."""
    world = World(monkeypatch)
    begin_ms = world.now_ms - 10_800_000
    await fill(world, await world.start(), begin_ms)
    aggregator = await world.start()
    world.consumer.end, world.consumer.position = 7201, 7200
    if answers:
        await world.look(aggregator, after_ms=3_600_000)
    else:
        world.now_ms += 3_600_000
        await aggregator.tick()
    assert world.anomalies() == []
    windows = aggregator.state.windows("a")
    assert len([w for w in windows if w.interval == "minute"]) == 60
    world.consumer.position = 7201
    await world.look(aggregator)
    await world.look(aggregator)
    assert [a["type"] for a in world.anomalies()] == ["silent"]


async def test_a_frozen_process_does_not_take_an_old_answer_for_the_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's end was asked for; then the process stood still for two hours, in which others wrote."""
    world = World(monkeypatch)
    await fill(world, await world.start(), world.now_ms - 7_200_000)
    aggregator = await world.start()
    aggregator.state.of_agent("a")[0].series.arrived_ms = world.now_ms
    await aggregator.ask_log_ends()
    world.now_ms += 7_200_000
    await aggregator.tick()
    assert world.anomalies() == []
    assert len([w for w in aggregator.state.windows("a") if w.interval == "minute"]) == 60


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("pause_ms", [0, 5_000, 240_000])
async def test_windows_of_points_from_hours_ago_are_the_recount_whatever_the_batches(
    monkeypatch: pytest.MonkeyPatch, batch: int, pause_ms: int
) -> None:
    """One agent's whole import after the other's, two minutes late or twice here and there; the reader has caught up with the
    log, and the clock looks, between any two batches; a crash in the middle."""
    world = World(monkeypatch)
    points = []
    for agent_id in ("a", "b"):
        for index in range(300):
            late_ms = 120_000 if index % 20 == 7 else 0
            point = _point(world.now_ms - 4 * 3_600_000 + index * 36_000 - late_ms, 0, agent_id)
            points += [point.wire()] * (2 if index % 50 == 3 else 1)
    aggregator = await world.start()
    offset = 0
    for begin in range(0, len(points), batch):
        if begin <= len(points) // 2 < begin + batch:
            aggregator = await world.start()
            offset = await world.read(aggregator, points[max(0, begin - 5) : begin], max(0, begin - 5))
        await world.look(aggregator, after_ms=pause_ms if begin % (batch * 20) == 0 else 0)
        offset = await world.read(aggregator, points[begin : begin + batch], begin)
    await aggregator.drain()
    assert offset == len(points)
    assert compare(world.aggregates(), points) == []
    assert aggregator.state.counters()["dropped"] == {"minute": 0, "hour": 0, "day": 0}
    # The first agent is silent for hours while the other's points come: that may be told.
    assert {(a["agentId"], a["type"]) for a in world.anomalies()} <= {("a", "silent")}


@pytest.mark.parametrize("ahead_ms", [-7_200_000, 540_000])
async def test_a_worker_with_another_clock_that_takes_over_sees_no_silence(
    monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    """Nine minutes ahead, or two hours behind: an agent that spoke a moment ago is not idle, and loses no window."""
    world = World(monkeypatch)
    await fill(world, await world.start(), world.now_ms - 7_200_000)
    aggregator = await world.start()
    await world.read(aggregator, [_point(world.now_ms, 0).wire()], 7200)
    world.now_ms += ahead_ms
    aggregator = await world.start()
    for _ in range(3):
        await world.look(aggregator, after_ms=60_000)
    assert world.anomalies() == []
    assert len([w for w in aggregator.state.windows("a") if w.interval == "minute"]) == 60


async def test_an_idle_series_goes_once_it_has_had_no_point_for_as_long_as_it_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Minutes after an hour, hours after a day, the series after a month, through restarts."""
    world = World(monkeypatch)
    aggregator = await world.start()
    await world.read(aggregator, [_point(world.now_ms - 5_000_000 + n * 1000, 0).wire() for n in range(5000)], 0)

    async def kept(after_ms: int) -> set[str]:
        fresh = await world.start()
        for _ in range(2):  # closed by the first look, gone by the second
            await world.look(fresh, after_ms=after_ms // 2)
        return {window.interval for window in fresh.state.windows("a")}

    assert await kept(3_000_000) == {"minute", "hour", "day"}
    assert await kept(3_000_000) == {"hour", "day"}
    assert await kept(86_400_000) == {"day"}
    assert await kept(31 * 86_400_000) == set()
    assert world.table.data == {}


async def test_a_worker_that_lost_its_partitions_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it writes, it learns that the partitions are another owner's."""
    world = World(monkeypatch)
    aggregator = await world.start()
    world.consumer.owned = False
    with pytest.raises(aggregator_module.Released):
        await world.read(aggregator, [_point(world.now_ms, 0).wire()], 0)
    assert (world.table.data, world.consumer.position) == ({}, 0)


async def test_points_of_a_topic_that_was_made_anew_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets begin again at 0, once, and again in the middle; a restart and a replay in between count nothing twice."""
    world = World(monkeypatch)
    aggregator = await world.start()
    points = [_point(world.now_ms - 100_000, n).wire() for n in range(90)]
    await world.read(aggregator, points[:50], 0)
    for begin, end in ((50, 70), (70, 90)):
        world.resumed = {0: 3}
        aggregator = await world.start()
        assert world.consumer.resume_offsets == {0: 3}
        await world.read(aggregator, points[begin:end], 3)
        world.resumed = {}
        aggregator = await world.start()
        await world.read(aggregator, points[begin:end], 3)
    assert aggregator.state.marks() == {0: [Mark(22, world.now_ms)]}
    await aggregator.drain()
    assert compare(world.aggregates(), points) == []


@pytest.mark.parametrize(
    ("stamp_ms", "time_ms", "rejected"),
    [
        (-10_800_000, 0, 0),
        (-10_800_000, 500_000, 0),
        (0, 700_000, 1),
        (-10_800_000, 700_000, 1),
        (900_000, 1_000_000, 0),
        (DAY_MS, DAY_MS + 500_000, 0),
        (DAY_MS + 700_000, DAY_MS + 700_000, 1),
        (END_MS - NOW_MS, END_MS - NOW_MS, 1),
    ],
)
async def test_only_a_point_of_the_future_is_put_aside(
    monkeypatch: pytest.MonkeyPatch, stamp_ms: int, time_ms: int, rejected: int
) -> None:
    """The record may be old (written again from an archive) while its point is of now; or this worker's clock is behind
    its writer's, by a day at most.
    """
    world = World(monkeypatch)
    aggregator = await world.start()
    await world.read(aggregator, [_point(world.now_ms + time_ms, 0).wire()], 0, stamp_ms=world.now_ms + stamp_ms)
    assert aggregator.rejected == rejected
    assert [topic for topic, _ in world.sent].count("dlq.data-points") == rejected


async def test_deletions_that_were_read_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one for each minute of each series in the last hours: hundreds of MB with ten thousand agents."""
    world = World(monkeypatch)
    world.table.recovery.deleted[b"k"] = 7
    await world.start()
    assert world.table.recovery.deleted == {}


async def test_what_was_exempted_from_garbage_collection_is_freed_when_its_partitions_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each recovery exempts everything in memory: what was on its way to become garbage would stay for ever."""
    garbage = Crashed()
    garbage.__cause__ = garbage
    seen = weakref.ref(garbage)
    aggregator = await World(monkeypatch).start()
    del garbage
    gc.collect()
    assert seen() is not None
    aggregator.release()
    gc.collect()
    assert seen() is None
    assert gc.get_freeze_count(), "what the rest of the process exempted stays so"
