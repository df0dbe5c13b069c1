"""One series (agent, pattern, task type) on one source partition: its windows, its detectors, the last offset applied.
Pure.

In: data points with their offsets, ascending. Out, in the points' order and independent of batches: changed windows,
anomalies. A point whose offset was applied before is ignored, so a replay changes nothing. Late points enter windows,
never the detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from schemas.messages import Anomaly, AnomalyDetails, ConfidenceDataPoint
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.calibration import MOST, Calibration
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.grouping import Sibling, publishable, surfaced
from streams.rules.detection.silence import Silence
from streams.rules.detection.verdicts import Verdicts
from streams.rules.windows.moments import PointSample
from streams.rules.windows.windows import FINEST, INTERVALS, Spans, Window, WindowId, Windows

VERSION = 6
OLDEST_VERSION = 4
"""Of the JSON form. Version 1 (before the rank test) is read and taken over: windows exactly, detectors from their ring.
Version 2 did not keep when an alarm fired, version 3 not what was still to be published, version 4 no deviations, version 5 no
waits and costs. What the last item holds may be missing, and workers that do not know it leave it out."""

Judged = Literal["", "points", "feedback"]
"""Which outcomes the calibration counts: none yet, the points' own, or those reported later."""


class Series:
    """The state of one series. `detectors` is None when detection is off."""

    __slots__ = (
        "anomalies",
        "arrived_ms",
        "base",
        "born",
        "calibration",
        "detectors",
        "failures",
        "id",
        "judged",
        "late",
        "offset",
        "partition",
        "silence",
        "stamp_ms",
        "verdicts",
        "windows",
    )

    def __init__(self, series_id: SeriesId, partition: int, spans: Spans, limits: Thresholds | None) -> None:
        self.id = series_id
        self.partition = partition
        self.offset = -1
        self.born = -1
        """Offset of the first point."""
        self.base = 0
        """Offset minus the offset on the broker; grows when the topic is recreated."""
        self.stamp_ms = -1
        """The time of the record at `offset`, epoch ms, which detects a recreated log. -1: unknown."""
        self.arrived_ms = 0
        """When the last point was read, epoch ms by the reader's clock. 0: unknown."""
        self.late = 0
        self.silence = Silence()
        self.calibration = Calibration()
        self.judged: Judged = ""
        self.verdicts = Verdicts()
        self.failures = Verdicts()
        """Of the points themselves: dispatch counts every answer as a success, other writers may not."""
        self.windows = Windows(spans)
        self.detectors = None if limits is None else Detectors(series_id, limits)
        self.anomalies: list[Anomaly] = []
        """What began or ended since the caller last emptied this."""

    def apply(self, point: ConfidenceDataPoint, offset: int, archived: Callable[[WindowId], Window | None]) -> bool:
        """Count one point; False if it had been applied before."""
        if offset <= self.offset:
            return False
        self.offset = offset
        if self.born < 0:
            self.born = offset
        time_ms = point.timestamp
        sample = PointSample(point)
        if point.feedback:
            self._judge(point, sample, archived)
            return True
        self._outcome(point)
        if self.windows.apply(time_ms, sample, offset, archived):
            self.late += 1
        elif self.detectors is not None:
            moment = Moment(self.partition, offset, time_ms)
            self._spoke(moment, self.detectors)
            self.anomalies += self.detectors.observe(
                point.confidence,
                moment,
                None if self.judged == "feedback" else point.success,
                sample.time_bucket,
                sample.measures,
            )
        return True

    def _outcome(self, point: ConfidenceDataPoint) -> None:
        """A point's own success counts for the calibration once it is known to judge answers.

        Dispatch counts every answer as a success and gives every failure a confidence of 0: that calibrates nothing.
        """
        if not point.success and point.confidence > 0:
            self.judged = self.judged or "points"
            if point.task_id is not None:
                self.failures.change(point.task_id, False)
        if self.judged == "points":
            self._learn(point.confidence, point.success)

    def _learn(self, confidence: float, success: bool) -> None:
        self.calibration.add(confidence, success)
        if self.calibration.count > MOST:
            self.calibration.fade()

    def _judge(
        self, point: ConfidenceDataPoint, sample: PointSample, archived: Callable[[WindowId], Window | None]
    ) -> None:
        """Add a task's true outcome: from the first such outcome on, only these count for the calibration."""
        task_id = point.task_id or ""
        first = self.verdicts.first(task_id)
        change = self.verdicts.change(task_id, point.success, self.failures.first(task_id))
        if change is None:
            return
        if self.judged != "feedback":
            self.judged, self.calibration = "feedback", Calibration()
        was, now = change
        if first:
            self._learn(point.confidence, now)
            if self.detectors is not None:
                moment = Moment(self.partition, self.offset, point.timestamp)
                self.anomalies += self.detectors.judge(point.confidence, now, moment)
        else:
            self.calibration.correct(point.confidence, now)
        if was != now:
            self.windows.correct(point.timestamp, sample, was, self.offset, archived)

    def _spoke(self, at: Moment, detectors: Detectors) -> None:
        if "silent" in detectors.alarms.firing:
            pause_s = (at.time_ms - self.silence.last_ms) / 1000
            why = AnomalyDetails(
                detector="pace", window=f"points again after {pause_s:.0f} s", points=detectors.shown()
            )
            self.anomalies += detectors.alarms.resolve("silent", at, why)
        self.silence.observe(at.time_ms, detectors.limits.silent_after_ms)

    def silent_ms(self) -> int:
        """From when on this series' silence is unusual, epoch ms; -1: never, or it cannot be reported (again) now."""
        return -1 if self.detectors is None or not self.detectors.alarms.ready("silent") else self.silent_from_ms()

    def silent_from_ms(self) -> int:
        """As `silent_ms`, also if it has been reported."""
        return -1 if self.detectors is None else self.silence.due_ms(self.detectors.limits.silent_after_ms)

    def fall_silent(self) -> None:
        """The caller's clock has passed `silent_ms`, and no other series of the agent had a point since this one
        did.
        """
        detectors, pace = self.detectors, self.silence
        since = self.silent_ms()
        if detectors is None or since < 0:
            return
        why = AnomalyDetails(
            detector="pace",
            deviation=round((since - pace.last_ms) / max(pace.usual_ms, 1.0), 3),
            window=f"no point for {(since - pace.last_ms) / 1000:.0f} s; until then one every {pace.usual_ms / 1000:.3g} s "
            f"(mean of the last), longest pause {pace.widest_ms / 1000:.3g} s",
            points=detectors.shown(),
        )
        self.anomalies += detectors.alarms.fire(
            "silent", Moment(self.partition, self.offset, since), "medium", pace.usual_ms, why
        )

    def close_due(self, now_ms: int) -> bool:
        """Close the windows that have ended by this clock; True if there were any."""
        if now_ms < self.windows.due_ms:
            return False
        self.windows.close_due(now_ms)
        return True

    def evaluate_idle(self, now_ms: int) -> bool:
        """Evaluate the points since the last check boundary although no later one has come; True if there were any.

        For an idle series: all points of the interval are there, and are evaluated as the next point would cause.
        """
        detectors = self.detectors
        due = -1 if detectors is None else detectors.due_ms()
        if detectors is None or due < 0 or now_ms < due + self.windows.spans[FINEST].grace_ms:
            return False
        self.anomalies += detectors.evaluate_idle(Moment(self.partition, self.offset, self.windows.watermark_ms))
        return True

    def group(self, begin: int, at: Moment, siblings: Sequence[Sibling]) -> None:
        """Publish what came at this point, `anomalies[begin:]`, as the pattern's or the agent's, or hold it back."""
        if self.detectors is None:
            return
        mine = self.detectors.alarms
        fresh = self.anomalies[begin:]
        self.anomalies[begin:] = [
            anomaly for raw in fresh if (anomaly := publishable(raw, at.offset, mine, siblings)) is not None
        ]
        self.anomalies += surfaced(mine, at, siblings)

    @property
    def grouping(self) -> bool:
        """Whether a point without a transition may still cause one: something is held back."""
        return self.detectors is not None and any(e.scope == "hidden" for e in self.detectors.alarms.firing.values())

    def to_json(self) -> list[Any]:
        """A JSON-able form: everything but the closed windows. The offset comes first, as it does in a window's."""
        detectors = None if self.detectors is None else self.detectors.to_json()
        return [self.offset, VERSION, self.late, self.windows.to_json(), detectors, *self._later()]

    def _later(self) -> list[Any]:
        pending = [anomaly.wire() for anomaly in self.anomalies]
        known = [self.silence.to_json(), self.born, self.judged, self.calibration.to_json(), self.verdicts.to_json()]
        floors = [self.windows.floor(interval) for interval in INTERVALS]  # kept when more windows are kept from now on
        return [*known, pending, [self.base, self.stamp_ms, self.arrived_ms, floors], self.failures.to_json()]

    @classmethod
    def from_json(
        cls, data: list[Any], series_id: SeriesId, partition: int, spans: Spans, limits: Thresholds | None
    ) -> Series:
        """The inverse of `to_json`, for this version and earlier ones down to `OLDEST_VERSION`; ValueError for others."""
        offset, version, late, windows, detectors, *later = data
        if version not in range(OLDEST_VERSION, VERSION + 1):
            reads = f"this worker reads {OLDEST_VERSION} to {VERSION}"
            raise ValueError(f"statistics state of version {version!r}, {reads}")
        series = cls(series_id, partition, spans, limits)
        series.offset, series.late = offset, late
        series.windows = Windows.from_json(windows, spans)
        if later:
            silence, series.born, series.judged, calibration, verdicts, *newer = later
            if detectors is not None:  # with detection off, no points were noted
                series.silence = Silence.from_json(silence)
            series.calibration = Calibration.from_json(calibration)
            series.verdicts = Verdicts.from_json(verdicts)
            series.anomalies = [Anomaly.model_validate(anomaly) for anomaly in (newer or [[]])[0]]
            if len(newer) > 1:
                series.base, series.stamp_ms, series.arrived_ms, floors = newer[1]
                series.windows.floors = dict(zip(INTERVALS, floors, strict=True))
            if len(newer) > 2:
                series.failures = Verdicts.from_json(newer[2])
        if limits is not None and detectors is not None:
            series.detectors = Detectors.from_json(detectors, series_id, limits)
        return series
