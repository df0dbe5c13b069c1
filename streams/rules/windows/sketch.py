"""Two mergeable histograms: confidences in 201 fixed bins, execution times in buckets of 1 % relative accuracy. Pure.

In: values. Out: counts per bin, merged sums of counts, quantiles. Counts are plain integers, so the order of updates and merges
never matters. Both are bounded: 201 bins, and at most 1,153 time buckets (0.1 ms to 10^9 ms, about 11 days; outside: the edge),
or 1,843 for measures in smaller units.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate, chain

CONFIDENCE_BINS = 201
ACCURACY = 0.01
MIN_TIME_MS = 0.1
MAX_TIME_MS = 1e9

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG = 1 / math.log(_GAMMA)
_LOWEST = math.ceil(math.log(MIN_TIME_MS) * _PER_LOG)
_MIDDLE = 2 / (_GAMMA + 1)

Histogram = dict[int, int]


def confidence_bin(confidence: float) -> int:
    """The bin of a confidence in [0, 1]: 0..200.

    >>> confidence_bin(0.0), confidence_bin(0.5), confidence_bin(1.0)
    (0, 100, 200)
    """
    return round(confidence * (CONFIDENCE_BINS - 1))


def time_bucket(time_ms: float, most: float = MAX_TIME_MS) -> int:
    """The bucket of an execution time, ms. Bucket 0 holds everything below 0.1 ms, the last one `most` and above.

    >>> time_bucket(0.0), time_bucket(1e300) == time_bucket(1e9)
    (0, True)
    """
    if time_ms < MIN_TIME_MS:
        return 0
    return math.ceil(math.log(min(time_ms, most)) * _PER_LOG) - _LOWEST + 1


def time_of(bucket: int) -> float:
    """The time a bucket stands for, ms: at most 1 % off any value in it.

    >>> abs(time_of(time_bucket(250.0)) / 250.0 - 1) <= 0.01
    True
    """
    if bucket == 0:
        return 0.0
    return math.exp((bucket + _LOWEST - 1) / _PER_LOG) * _MIDDLE


def merge(into: Histogram, other: Histogram) -> None:
    """Add the counts of `other`."""
    for index, count in other.items():
        into[index] = into.get(index, 0) + count


def quantiles(histogram: Histogram, ranks: tuple[float, ...]) -> list[int]:
    """The bins in which the given ranks fall (ascending, each in [0, 1]); nearest-rank. The histogram must not be empty.

    >>> quantiles({0: 1, 5: 98, 9: 1}, (0.0, 0.5, 1.0))
    [0, 5, 9]
    """
    order = sorted(histogram)
    upto = list(accumulate(map(histogram.__getitem__, order)))
    return [order[bisect_left(upto, max(1, math.ceil(rank * upto[-1])))] for rank in ranks]


def flat(histogram: Histogram) -> list[int]:
    """Bins and counts in turn, as JSON holds them.

    >>> unflat(flat({3: 7, 1: 2})) == {3: 7, 1: 2}
    True
    """
    return list(chain.from_iterable(histogram.items()))


def unflat(values: list[int]) -> Histogram:
    return dict(zip(values[::2], values[1::2], strict=True))
