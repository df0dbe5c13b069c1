"""Confidence: data points, aggregates, anomalies and calibrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.messages.base import Count, Id, Message, Milliseconds, OrDefault, Ratio, Timestamp

Interval = Literal["minute", "hour", "day"]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Severity = Literal["low", "medium", "high"]
AnomalyType = Literal[
    "sudden_drop", "low_confidence", "high_variance", "drift", "outlier", "miscalibrated", "slow", "costly", "silent"
]


class ConfidenceDataPoint(Message):
    """The confidence that one execution stated, and whether it succeeded. Times in ms; `executionTime` without
    waiting.

    `cost`: in the currency of the prices (setting `stats.prices`), or as the agent reports it. With `feedback`: the
    point of `taskId` once more, unchanged but for `success`, which holds the true outcome.
    """

    agent_id: Id
    pattern_name: Annotated[str, Field(max_length=256), OrDefault] = ""
    task_type: Annotated[str, Field(max_length=256), OrDefault] = ""
    confidence: Ratio
    success: bool
    timestamp: Timestamp
    execution_time: Milliseconds
    wait_time: Milliseconds | None = None
    model: Annotated[str, Field(max_length=256)] | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    cost: Amount | None = None
    task_id: Id | None = None
    feedback: Annotated[bool, OrDefault] = False


class Measure(Message):
    """Statistics of one value over the points of a window that have it: count, sum, mean and 95th percentile (within 1
    %).
    """

    count: Count
    sum: Amount
    mean: Amount
    p95: Amount


class ReliabilityBin(Message):
    """Outcomes of one range of stated confidence: their mean confidence, success rate and its 95 % interval."""

    count: Count
    confidence: Ratio
    success_rate: Ratio
    low: Ratio
    high: Ratio


class AgentCalibration(Message):
    """An agent's stated confidence compared with known outcomes. `table`: calibrated confidence at the
    stated 0, 0.05, ... 1.

    `gap`: mean confidence less success rate (positive: overconfident) with its 95 % interval; `calibrationError`: root
    mean square over the bins, less what chance alone would show.
    """

    agent_id: Id
    count: Count
    method: Literal["curve", "bins"]
    table: Annotated[list[Ratio], Field(min_length=21, max_length=21)]
    success_rate: Ratio
    gap: float
    gap_low: float
    gap_high: float
    brier: Ratio
    log_loss: float
    calibration_error: Ratio
    bins: list[ReliabilityBin] = []


class Aggregate(Message):
    """One window of one agent, pattern and task type. `variance` is the population variance; times in ms."""

    agent_id: Id
    pattern_name: str
    task_type: str
    interval: Interval
    window_start: Timestamp
    window_end: Timestamp
    final: bool
    count: Count
    success_count: Count
    avg_confidence: Ratio
    min_confidence: Ratio
    max_confidence: Ratio
    variance: Annotated[float, Field(ge=0, le=0.25)]
    success_rate: Ratio
    avg_execution_time: Milliseconds
    p50_execution_time: Milliseconds
    p95_execution_time: Milliseconds
    p99_execution_time: Milliseconds
    p10_confidence: Ratio
    p50_confidence: Ratio
    brier: Ratio
    ece: Ratio
    wait_time: Measure | None = None
    input_tokens: Measure | None = None
    output_tokens: Measure | None = None
    total_tokens: Measure | None = None
    cost: Measure | None = None
    revision: Count = 0


class AnomalyDetails(Message):
    """The numbers behind an anomaly; `points` are the confidences around the moment, oldest first.

    `detector`: the one that found it; `score`: how unusual it is, on that detector's scale; `parameters`: the
    detector's.
    """

    current_confidence: float | None = None
    historical_average: float | None = None
    deviation: float | None = None
    threshold: float | None = None
    window: str | None = None
    detector: str
    score: float | None = None
    parameters: dict[str, float | int | str] | None = None
    points: list[float] = []


class Anomaly(Message):
    """One episode of abnormal behaviour of an agent; `id` is the same when it fires and when it resolves."""

    id: Id
    type: AnomalyType
    agent_id: Id
    pattern_name: str | None = None
    severity: Severity
    state: Literal["firing", "resolved"]
    detected_at: Timestamp
    details: AnomalyDetails
