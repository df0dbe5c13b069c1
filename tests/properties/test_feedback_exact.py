"""Late verdicts are exact too: whatever the batches, crashes and repetitions, success is counted as it was last told."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import ConfidenceDataPoint
from streams.rules.windows.moments import Moments, PointSample
from streams.rules.windows.windows import SIZES_MS, WindowId
from tests.properties.test_windows_exact import BASE_MS, Store, point, run


def judged(rng: random.Random, count: int) -> list[ConfidenceDataPoint]:
    """Answers, and verdicts on earlier ones between them: some told twice, some changed."""
    answers: list[ConfidenceDataPoint] = []
    records: list[ConfidenceDataPoint] = []
    for index in range(count):
        if answers and rng.random() < 0.4:
            about = rng.choice(answers[-60:])
            told = about.model_copy(update={"success": rng.random() < 0.6, "feedback": True})
            records += [told] * rng.choice((1, 1, 2))
        value = rng.betavariate(17, 3)
        answer = point(value, rng.random() < 0.8, 10.0, BASE_MS + index * 3000 - rng.randrange(20_000))
        answers.append(answer.model_copy(update={"task_id": f"t{index}"}))
        records.append(answers[-1])
    return records


def recount(records: list[ConfidenceDataPoint]) -> dict[WindowId, tuple[int, int, int]]:
    """Points, successes as last told, and the sum of the successes' confidence, per window."""
    last: dict[str, ConfidenceDataPoint] = {}
    for record in records:
        last[record.task_id or ""] = record
    found: dict[WindowId, Moments] = {}
    for record in last.values():
        for interval, size in SIZES_MS.items():
            key = (interval, record.timestamp - record.timestamp % size)
            found.setdefault(key, Moments()).observe(PointSample(record))
    return {key: (m.count, m.successes, m.success_sum) for key, m in found.items()}


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.sets(st.integers(0, 30)),
    st.booleans(),
)
def test_success_is_counted_as_last_told_whatever_happens(
    seed: int, batches: list[int], crashes: set[int], torn: bool
) -> None:
    """Windows equal a recount, in calm and in rough runs, and so does the calibration's state."""
    records = judged(random.Random(seed), 300)
    calm: Store = run(records, [len(records)], set(), False)
    rough: Store = run(records, batches, crashes, torn)
    assert rough.all() == calm.all()
    assert rough.anomalies == calm.anomalies
    assert {key: (m.count, m.successes, m.success_sum) for key, m in calm.all().items()} == recount(records)
    assert rough.open().calibration == calm.open().calibration
    verdicts = {record.task_id: record for record in records if record.feedback}
    assert calm.open().calibration.count == len(verdicts)
    assert sum(row[1] for row in calm.open().calibration.rows.values()) == sum(r.success for r in verdicts.values())
