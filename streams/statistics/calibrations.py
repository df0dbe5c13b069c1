"""The record on `calibrations`: an agent's calibration, from its outcomes."""

from __future__ import annotations

from schemas.messages import AgentCalibration, ReliabilityBin
from streams.rules.detection.calibration import BY_BINS, Calibration


def calibration_message(agent_id: str, whole: Calibration, table: list[float]) -> AgentCalibration:
    """The record on `calibrations`."""
    gap, low, high = whole.gap()
    return AgentCalibration(
        agent_id=agent_id,
        count=whole.count,
        method="bins" if whole.count >= BY_BINS else "curve",
        table=table,
        success_rate=whole.rate,
        gap=gap,
        gap_low=low,
        gap_high=high,
        brier=min(whole.brier(), 1.0),
        log_loss=whole.log_loss(),
        calibration_error=min(whole.error(), 1.0),
        bins=[
            ReliabilityBin(count=b.count, confidence=b.confidence, success_rate=b.rate, low=b.low, high=b.high)
            for b in whole.bins()
        ],
    )
