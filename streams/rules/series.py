"""One series (agent, pattern, task type) on one source partition: its windows, its detectors, the last offset applied. Pure.

In: data points with their offsets, ascending. Out, in the points' order and whatever the batches: windows touched, anomalies.
A point whose offset was applied before is ignored, so a replay changes nothing. Late points enter windows, never the detectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.messages import Anomaly, ConfidenceDataPoint
from streams.rules.alarms import Moment, SeriesId
from streams.rules.detectors import Detectors, Thresholds
from streams.rules.moments import Sample
from streams.rules.windows import Spans, Window, WindowId, Windows

VERSION = 1


class Series:
    """All that is known of one series. `detectors` is None when detection is off."""

    __slots__ = ("anomalies", "detectors", "id", "late", "offset", "partition", "windows")

    def __init__(self, series_id: SeriesId, partition: int, spans: Spans, limits: Thresholds | None) -> None:
        self.id = series_id
        self.partition = partition
        self.offset = -1
        self.late = 0
        self.windows = Windows(spans)
        self.detectors = None if limits is None else Detectors(series_id, limits)
        self.anomalies: list[Anomaly] = []
        """What began or ended since the caller last emptied this."""

    def apply(self, point: ConfidenceDataPoint, offset: int, archived: Callable[[WindowId], Window | None]) -> bool:
        """Fold one point in; False if it had been applied before."""
        if offset <= self.offset:
            return False
        self.offset = offset
        time_ms = point.timestamp
        if self.windows.apply(time_ms, Sample(point), offset, archived):
            self.late += 1
        elif self.detectors is not None:
            moment = Moment(self.partition, offset, time_ms)
            self.anomalies += self.detectors.observe(point.confidence, moment)
        return True

    def tick(self, now_ms: int) -> bool:
        """What the clock alone does to a series whose partition has nothing more to read; True if anything changed."""
        changed = False
        if now_ms >= self.windows.due_ms:
            self.windows.close_due(now_ms)
            changed = True
        detectors = self.detectors
        if detectors is not None:
            due = detectors.due_ms()
            if due >= 0 and now_ms >= due + self.windows.spans["minute"].grace_ms:
                self.anomalies += detectors.look(Moment(self.partition, self.offset, self.windows.watermark_ms))
                changed = True
        return changed

    def to_json(self) -> list[Any]:
        """A JSON-able form: everything but the closed windows. The offset comes first, as it does in a window's."""
        detectors = None if self.detectors is None else self.detectors.to_json()
        return [self.offset, VERSION, self.late, self.windows.to_json(), detectors]

    @classmethod
    def from_json(
        cls, data: list[Any], series_id: SeriesId, partition: int, spans: Spans, limits: Thresholds | None
    ) -> Series:
        """The inverse of `to_json`. ValueError for a version this code does not know."""
        offset, version, late, windows, detectors = data
        if version != VERSION:
            raise ValueError(f"statistics state of version {version!r}, this worker reads {VERSION}")
        series = cls(series_id, partition, spans, limits)
        series.offset, series.late = offset, late
        series.windows = Windows.from_json(windows, spans)
        if limits is not None and detectors is not None:
            series.detectors = Detectors.from_json(detectors, series_id, limits)
        return series
