"""How unusual a score is in its series: the tail of past scores is fitted, and the threshold follows from a wanted
rate. Pure.

In: non-negative scores of any scale, one by one. Out: whether a score exceeds the threshold. The newest scores are held
back for a while before they are learnt: a deviation that builds up must not raise its own threshold. Excesses over a
high quantile are fitted by a generalised Pareto distribution (probability-weighted moments, Hosking and Wallis 1987):
heavy tails get higher thresholds. Scores are kept in a histogram, eight bins an octave; river.stats.Quantile has no
state that can be written as numbers, and gives one quantile only.
"""

from __future__ import annotations

import math
from array import array
from base64 import b64decode, b64encode
from typing import Any

BINS = 128
FLOOR = 1e-4
PER_OCTAVE = 8
HOLD = 32
"""Scores learnt at once; the newest `HOLD` to twice as many are not learnt yet."""
MOST = 5000
"""Number of scores at which all counts are halved."""
LEAST = 96
"""Fewer scores give no threshold."""
SHARE = 0.05
SHARE_LARGE = 0.01
TAIL_MOST = 20
"""Of few scores the largest 5 % are fitted; of many, one in a hundred and this many more."""
TAIL_LEAST = 10
MIN_SHAPE, MAX_SHAPE = 0.0, 0.6

_log2 = math.log2
_MIDDLE = [FLOOR * 2 ** ((index + 0.5) / PER_OCTAVE) for index in range(BINS)]


def bin_of(score: float) -> int:
    """The bin of a score.

    >>> bin_of(0.0), bin_of(1e-4), bin_of(1e9)
    (0, 0, 127)
    """
    if score <= FLOOR:
        return 0
    index = int(_log2(score / FLOOR) * PER_OCTAVE)
    return index if index < BINS else BINS - 1


class Tail:
    """The scores of one kind of one series. `limit`: the present threshold; infinite while there are too few.

    >>> tail = Tail(1e-4)
    >>> any(tail.push(0.01 + index % 10 / 1000) for index in range(500)), tail.push(0.1)
    (False, True)
    """

    __slots__ = ("_counts", "_held", "_total", "beyond", "limit", "rate")

    def __init__(self, rate: float, beyond: float = 1.1) -> None:
        """`rate`: of scores beyond the threshold; `beyond`: by which factor it lies above all remembered scores."""
        self.rate = rate
        self.beyond = beyond
        self._counts = array("H", bytes(2 * BINS))
        self._total = 0
        self._held = bytearray()
        self.limit = math.inf

    def push(self, score: float, learn: bool = True) -> bool:
        """Add a score; True if it exceeds the threshold."""
        if learn:
            held = self._held
            held.append(bin_of(score))
            if len(held) >= 2 * HOLD:
                self._learn()
        return score > self.limit

    def forget_newest(self) -> None:
        """Drop the scores not learnt yet: they belonged to an incident."""
        self._held.clear()

    def _learn(self) -> None:
        counts = self._counts
        for index in self._held[:HOLD]:
            counts[index] += 1
        del self._held[:HOLD]
        self._total += HOLD
        if self._total >= MOST:
            for index, count in enumerate(counts):
                counts[index] = count // 2
            self._total = sum(counts)
        self._fit()

    def _fit(self) -> None:
        total, counts = self._total, self._counts
        if total < LEAST:
            self.limit = math.inf
            return
        order = [index for index in range(BINS - 1, -1, -1) if counts[index]]
        least = max(TAIL_LEAST, int(min(SHARE * total, TAIL_MOST + SHARE_LARGE * total)))
        tail, place = 0, 0
        while tail < least and place < len(order) - 1:
            tail += counts[order[place]]
            place += 1
        start = _MIDDLE[order[place]]
        if tail == 0:  # every score was the same
            self.limit = max(_MIDDLE[order[0]] * 2, 4 * FLOOR)
            return
        mean = weighted = 0.0
        above = 0
        for index in order[:place]:
            count, excess = counts[index], _MIDDLE[index] - start
            mean += count * excess
            weighted += count * excess * (above + (count - 1) / 2)
            above += count
        mean, weighted = mean / tail, weighted / (tail * max(tail - 1, 1))
        rest = mean - 2 * weighted
        shape = min(max(2 - mean / rest, MIN_SHAPE), MAX_SHAPE) if rest > 0 else MAX_SHAPE
        scale = mean * (1 - shape)
        often = max(tail / total / self.rate, 1.0)
        far = scale * math.log(often) if abs(shape) < 1e-3 else scale / shape * (often**shape - 1)
        self.limit = max(start + far, _MIDDLE[order[0]] * self.beyond)

    def to_json(self) -> list[Any]:
        """The counts without the empty bins at both ends, base64, the first of these bins, and the bins not learnt yet."""
        raw = self._counts.tobytes()
        first = (len(raw) - len(raw.lstrip(b"\0"))) // 2
        last = (len(raw.rstrip(b"\0")) + 1) // 2
        return [b64encode(raw[2 * first : 2 * last]).decode(), list(self._held), first]

    @classmethod
    def from_json(cls, data: list[Any], rate: float, beyond: float) -> Tail:
        tail = cls(rate, beyond)
        counts, held, *first = data
        if first:
            for index, count in enumerate(array("H", b64decode(counts)), first[0]):
                tail._counts[index] = count
        else:  # as version 5 of the series' state had them: bins and counts in turn
            for index, count in zip(counts[::2], counts[1::2], strict=True):
                tail._counts[index] = count
        tail._held = bytearray(held)
        tail._total = sum(tail._counts)
        tail._fit()
        return tail
