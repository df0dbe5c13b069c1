"""Measures that only some points of a window have: wait, tokens, cost. Exact and mergeable, like `moments.py`. Pure.

In: data points. Out: per measure the number of points that have it, their sum, mean and 95th percentile. Sums are
integers scaled by 2^52; quantiles come from the histogram of execution times, in which costs are counted in millionths.
"""

from __future__ import annotations

from typing import Any

from schemas.messages import ConfidenceDataPoint
from streams.rules.windows import sketch

ONE = 1 << 52
NAMES = ("waitTime", "inputTokens", "outputTokens", "totalTokens", "cost")
UNITS = {"cost": 1e6}
"""Factor applied to a value before it is put into a bucket."""

Reading = tuple[str, int, int]
"""Measure, value x 2^52, bucket."""
Held = dict[str, list[Any]]
"""Measure -> [points, sum x 2^52, histogram]."""


def readings(point: ConfidenceDataPoint) -> list[Reading]:
    """A point's measures beside confidence, success and execution time."""
    found: list[Reading] = []
    if point.wait_time is not None:
        found.append(_reading("waitTime", point.wait_time))
    if point.input_tokens is not None:
        found.append(_reading("inputTokens", point.input_tokens))
    if point.output_tokens is not None:
        found.append(_reading("outputTokens", point.output_tokens))
    if point.total_tokens is not None:
        found.append(_reading("totalTokens", point.total_tokens))
    if point.cost is not None:
        found.append(_reading("cost", point.cost))
    return found


def _reading(name: str, value: float) -> Reading:
    value = min(value, sketch.MAX_TIME_MS)
    return name, int(value * ONE), bucket_of(name, value)


def bucket_of(name: str, value: float) -> int:
    """The bucket of a value of this measure."""
    unit = UNITS.get(name, 1.0)
    return sketch.time_bucket(value * unit, sketch.MAX_TIME_MS * unit)


def value_of(name: str, bucket: int) -> float:
    """The value of a bucket, within 1 %.

    >>> abs(value_of("cost", bucket_of("cost", 0.003)) / 0.003 - 1) <= 0.01
    True
    """
    return sketch.time_of(bucket) / UNITS.get(name, 1.0)


def add(held: Held, found: list[Reading]) -> None:
    for name, fixed, bucket in found:
        row = held.get(name)
        if row is None:
            row = held[name] = [0, 0, {}]
        row[0] += 1
        row[1] += fixed
        row[2][bucket] = row[2].get(bucket, 0) + 1


def merge(into: Held, other: Held) -> None:
    """Add all points of `other`; it stays as it is."""
    for name, (count, total, histogram) in other.items():
        row = into.setdefault(name, [0, 0, {}])
        row[0] += count
        row[1] += total
        sketch.merge(row[2], histogram)


def figures(held: Held) -> dict[str, dict[str, float]]:
    """The members of an aggregate: measure -> count, sum, mean, p95."""
    return {
        name: {
            "count": row[0],
            "sum": row[1] / ONE,
            "mean": row[1] / (row[0] * ONE),
            "p95": value_of(name, sketch.quantiles(row[2], (0.95,))[0]),
        }
        for name in NAMES
        if (row := held.get(name))
    }


def to_json(held: Held) -> list[Any]:
    """A JSON-able form; empty without any."""
    return [[name, count, f"{total:x}", sketch.flat(histogram)] for name, (count, total, histogram) in held.items()]


def from_json(data: list[Any]) -> Held:
    return {name: [count, int(total, 16), sketch.unflat(flat)] for name, count, total, flat in data}
