"""The records that statistics write: aggregates, anomalies and their events, dead letters. Ids follow from the content
alone.

In: windows, anomalies, rejected records. Out: `Output`s that follow the contracts (binary CloudEvents). Never sends.
"""

from __future__ import annotations

from schemas.codec import ce_headers, pack
from schemas.messages import AgentCalibration, Anomaly
from schemas.topics import BY_NAME
from streams.rules.detection.alarms import event_data
from streams.rules.records import Output, Recorder
from streams.rules.source_record import SourceRecord
from streams.rules.windows.windows import Window, WindowId
from streams.settings import Settings
from streams.statistics.state import Live

PROCESSOR = "stats"
AGGREGATE, CALIBRATION, ANOMALY = (BY_NAME[topic].ce_type for topic in ("aggregates", "calibrations", "anomalies"))


class StatsRecorder:
    """Builds every record of the statistics processor."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._source = f"/parallax/{settings.app_id}/{PROCESSOR}"
        self._recorder = Recorder(
            app_id=settings.app_id, processor=PROCESSOR, prefix=settings.topic_prefix, group=group
        )

    def aggregate(self, live: Live, window_id: WindowId, window: Window) -> Output:
        """One window as it is now."""
        owner = live.series.id
        interval, start = window_id
        record_id = "/".join(
            (owner.agent_id, owner.pattern_name, owner.task_type, interval, str(start), str(window.revision))
        )
        headers = ce_headers(
            ce_type=AGGREGATE,
            ce_id=record_id,
            source=self._source,
            subject=owner.agent_id,
            time_ms=live.series.windows.watermark_ms,
        )
        value = pack(live.aggregate(window_id, window))
        return Output("aggregates", owner.agent_id.encode(), value, headers)

    def calibration(self, calibration: AgentCalibration, now_ms: int) -> Output:
        """An agent's calibration as known now."""
        headers = ce_headers(
            ce_type=CALIBRATION,
            ce_id=f"{calibration.agent_id}/{calibration.count}",
            source=self._source,
            subject=calibration.agent_id,
            time_ms=now_ms,
        )
        return Output("calibrations", calibration.agent_id.encode(), pack(calibration.wire()), headers)

    def anomaly(self, anomaly: Anomaly) -> list[Output]:
        """The record on `anomalies` and the event about it."""
        headers = ce_headers(
            ce_type=ANOMALY,
            ce_id=f"{anomaly.id}/{anomaly.state}",
            source=self._source,
            subject=anomaly.agent_id,
            time_ms=anomaly.detected_at,
        )
        record = Output("anomalies", anomaly.agent_id.encode(), pack(anomaly.wire()), headers)
        kind, data = event_data(anomaly)
        tail = f"/{anomaly.id}"
        return [record, self._recorder.event(kind, anomaly.agent_id, data, anomaly.detected_at, tail)]

    def dead_letter(self, record: SourceRecord, stage: str, reason: str, now_ms: int) -> list[Output]:
        """The original bytes with the reason, and an event that names their origin."""
        return self._recorder.dead_letter(record, stage, reason, now_ms)
