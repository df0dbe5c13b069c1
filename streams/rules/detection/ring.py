"""The newest values of a stream, with their sums. Pure.

In: small non-negative integers. Out: the newest of them, means and spreads; exact, because sums of integers are. Holds
`RING` values and up to `SLACK` more before it is trimmed; two bytes each.
"""

from __future__ import annotations

import math
from array import array
from base64 import b64decode, b64encode

RING = 200
SLACK = 40


class Ring:
    """The newest `RING` values.

    >>> ring = Ring()
    >>> for value in (1, 2, 3, 6):
    ...     ring.push(value)
    >>> ring.total, ring.mean(2), ring.newest(3), Ring.from_json(ring.to_json()).newest(9)
    (12, 4.5, [2, 3, 6], [1, 2, 3, 6])
    """

    __slots__ = ("_values", "squares", "total")

    def __init__(self) -> None:
        self._values = array("H")
        self.total = 0
        self.squares = 0

    def __len__(self) -> int:
        size = len(self._values)
        return size if size < RING else RING

    def push(self, value: int) -> None:
        """Add a value; beyond `RING` the oldest is dropped."""
        values = self._values
        size = len(values)
        if size >= RING:
            old = values[size - RING]
            self.total += value - old
            self.squares += value * value - old * old
            if size >= RING + SLACK:
                del values[:SLACK]
        else:
            self.total += value
            self.squares += value * value
        values.append(value)

    def newest(self, count: int) -> list[int]:
        """At most the newest `count`, oldest first."""
        return self._values[-min(count, RING) :].tolist() if count > 0 else []

    def sum_of(self, count: int) -> int:
        """The sum of the newest `count` (at most)."""
        return sum(self._values[-min(count, RING) :]) if count > 0 else 0

    def mean(self, count: int) -> float:
        """The mean of the newest `count` (at most); 0 when empty."""
        count = min(count, len(self))
        return self.sum_of(count) / count if count else 0.0

    def spread(self, count: int) -> float:
        """The standard deviation of the newest `count` (at most); 0 when empty."""
        values = self.newest(count)
        count, total = len(values), sum(values)
        square = sum(value * value for value in values)
        return math.sqrt(count * square - total * total) / count if count else 0.0

    def most_spread(self, count: int) -> float:
        """An upper bound of the standard deviation of the newest `count`, from the sums of the whole ring.

        >>> ring = Ring()
        >>> for value in (1, 9, 1, 9, 5, 5): ring.push(value)
        >>> ring.spread(4), ring.most_spread(4) > ring.spread(4)
        (2.8284271247461903, True)
        """
        held = len(self)
        return math.sqrt((held * self.squares - self.total * self.total) / (held * min(count, held))) if held else 0.0

    def to_json(self) -> str:
        return b64encode(self._values[-RING:].tobytes()).decode()

    @classmethod
    def from_json(cls, text: str) -> Ring:
        ring = cls()
        ring._values = array("H", b64decode(text))
        ring.total = sum(ring._values)
        ring.squares = sum(value * value for value in ring._values)
        return ring
