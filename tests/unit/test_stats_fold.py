"""What the clock says of a series is written before it is told, so that a crash in between leaves no alarm without an end."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from schemas.messages import ConfidenceDataPoint
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.windows import Span
from streams.settings import Settings
from streams.statistics import fold
from streams.statistics.fold import Folder
from streams.statistics.outputs import StatsRecorder
from streams.statistics.state import State

SPANS: Any = {"minute": Span(60_000, 30_000, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}


class Crashed(Exception):
    """The process ends here."""


class Table:
    """Keeps rows, as the changelog would."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    async def write(self, rows: Any) -> None:
        """All of them, or the removal of those without a value."""
        for key, value in rows:
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value


class World:
    """A folder over a table that outlives it; `sent`: outputs by topic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table = Table()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.crash_when_telling = False
        monkeypatch.setattr(fold, "send_all", self._send)

    async def _send(self, batcher: object, producer: object, outputs: Any) -> None:
        self.sent += [(output.topic, orjson.loads(output.value)) for output in outputs]
        if self.crash_when_telling and self.anomalies():
            raise Crashed

    async def start(self) -> Folder:
        """A new process, after recovery, whose series have been idle for an hour."""
        folder = Folder(StatsRecorder(Settings(), "stats"), lambda error: None)
        state = State(cast("Any", self.table), SPANS, Thresholds())
        folder.attach(state, cast("Any", self.table), cast("Any", None), cast("Any", None), lambda: cast("Any", None))
        await folder.load()
        folder._loaded = time.monotonic() - 3600
        for clock in folder._clocks.values():
            clock.read_s = folder._loaded
        return folder

    def anomalies(self) -> list[dict[str, Any]]:
        """What has been told, in order."""
        return [value for topic, value in self.sent if topic == "anomalies"]


async def fill(folder: Folder, table: Table, begin_ms: int) -> None:
    """7200 points, one a second, as if they had been read and written."""
    for offset in range(7200):
        live = folder.state.apply(_point(begin_ms, offset), 0, offset)
    live.series.anomalies.clear()
    await table.write(folder.state.rows(live))


def _point(begin_ms: int, offset: int) -> ConfidenceDataPoint:
    return ConfidenceDataPoint(
        agent_id="a",
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
    begin_ms = int(time.time() * 1000) - 10_800_000
    await fill(await world.start(), world.table, begin_ms)

    world.crash_when_telling = True
    with pytest.raises(Crashed):
        await (await world.start())._tick()
    (told,) = world.anomalies()
    assert (told["type"], told["state"]) == ("silent", "firing")
    world.crash_when_telling = False

    def spoken(folder: Folder) -> list[tuple[str, str, str]]:
        live = folder.state.apply(_point(begin_ms, 10_700), 0, 7200)
        return [(a.type, a.state, a.id) for a in live.series.anomalies]

    begin, end = ("silent", "firing", told["id"]), ("silent", "resolved", told["id"])
    assert spoken(await world.start()) == [begin, end]
    for _ in range(2):
        await (await world.start())._tick()
    assert world.anomalies() == [told, told]
    assert spoken(await world.start()) == [end]


async def test_verdicts_about_an_agent_are_no_word_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stopped an hour ago; what comes are outcomes of its old tasks."""
    world = World(monkeypatch)
    begin_ms = int(time.time() * 1000) - 10_800_000
    await fill(await world.start(), world.table, begin_ms)
    folder = await world.start()

    def read(point: ConfidenceDataPoint, offset: int) -> None:
        value = orjson.dumps(point.wire())
        message = SimpleNamespace(value=value, headers=(), timestamp=time.time(), partition=0, offset=offset, key=b"a")
        assert folder._fold(cast("Any", message), []) is not None

    read(_point(begin_ms, 7100).model_copy(update={"feedback": True, "task_id": "t"}), 7200)
    await folder._tick()
    assert [a["type"] for a in world.anomalies()] == ["silent"]

    folder = await world.start()
    read(_point(begin_ms, 10_790), 7201)
    await folder._tick()
    assert [a["state"] for a in world.anomalies()] == ["firing", "resolved"]


async def test_a_backlog_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents in a partition whose points are an hour old: what lies ahead has not been read."""
    world = World(monkeypatch)
    begin_ms = int(time.time() * 1000) - 10_800_000
    folder = await world.start()
    await fill(folder, world.table, begin_ms)
    folder._clock(0).read(begin_ms + 7_300_000, time.monotonic())
    await folder._tick()
    assert world.anomalies() == []
    folder._clock(0).read(begin_ms + 7_900_000, time.monotonic())
    await folder._tick()
    assert [a["type"] for a in world.anomalies()] == ["silent"]
