"""What one point costs the statistics, without Kafka: count it, build the records of its windows, write its rows to memory.

`python -m tests.bench.statistics_point [--points 3000]`: a point a second (one window of each interval is open), a point a minute
and a point an hour (each point opens windows of its own and closes others); with and without detectors, and with waits, tokens
and cost. Every window a point touches becomes a record, as for an agent that answers less than once a second; a busy one costs
less. Prints microseconds of CPU a point; asserts nothing.
"""

from __future__ import annotations

import argparse
import time
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from schemas.messages import ConfidenceDataPoint
from streams.settings import Settings
from streams.statistics.outputs import StatsRecorder
from streams.statistics.state import State, spans_of, thresholds_of

START_MS = 1_795_348_800_000
STEPS = {"a point a second": 1000, "a point a minute": 60_000, "a point an hour": 3_600_000}


def _points(count: int, step_ms: int, spending: bool) -> list[ConfidenceDataPoint]:
    rng = Random(1)
    fields: dict[str, Any] = {"agent_id": "a", "task_type": "agent"}
    found = []
    for index in range(count):
        more: dict[str, Any] = {}
        if spending:
            more = {"wait_time": rng.lognormvariate(2, 1), "total_tokens": 1020, "cost": rng.lognormvariate(-5, 0.5)}
        more |= {"success": rng.random() < 0.85, "confidence": rng.betavariate(17, 3)}
        more |= {"timestamp": START_MS + index * step_ms, "execution_time": rng.lognormvariate(4, 1)}
        found.append(ConfidenceDataPoint.model_validate(fields | more))
    return found


def measured(count: int, step_ms: int, detect: bool, spending: bool) -> float:
    """Microseconds of CPU a point."""
    settings = Settings()
    points, rows = _points(count, step_ms, spending), dict[bytes, bytes]()
    recorder = StatsRecorder(settings, "bench")
    state = State(
        table=cast("Any", SimpleNamespace(data=rows)),
        spans=spans_of(settings),
        limits=thresholds_of(settings) if detect else None,
    )
    began = time.process_time()
    for offset, point in enumerate(points):
        live = state.apply(point, 0, offset)
        windows = live.series.windows
        for window_id, window in windows.touched.items():
            recorder.aggregate(live, window_id, window)
        live.series.anomalies.clear()
        for key, value in state.rows(live):
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        windows.touched.clear()
        live.leaving.clear()
    return (time.process_time() - began) / count * 1e6


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=3000)
    count = parser.parse_args().points
    print(f"{'us a point':20}{'windows':>10}{'+ detectors':>14}{'+ cost':>10}")
    for name, step_ms in STEPS.items():
        figures = [measured(count, step_ms, *how) for how in ((False, False), (True, False), (True, True))]
        print(f"{name:20}{figures[0]:10.0f}{figures[1]:14.0f}{figures[2]:10.0f}")


if __name__ == "__main__":
    main()
