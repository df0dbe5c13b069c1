"""One verdict from the votes of several detectors about the same moment. Pure.

In: votes of detectors, each with the ratio of its score to its threshold. Out, a few points after the first vote: the
strongest vote with a severity that reflects the certainty, and which detectors agree. Waiting costs `HOLD` points and
gives a single alarm of the right type: a spike and the first point of a shift look the same.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

from schemas.messages import Severity

HOLD = 4
SLOW_HOLD = 12
"""After a vote of a detector for changes that are not urgent."""
MEDIUM = 1.05
SURE = 1.3
HIGH = 1.45
"""Ratio of score to threshold. Of the alarms on generated series from `MEDIUM` on, seven of eight are right (`parallax
bench detect`).
"""
CLEAR = {"deviation-spike", "deviation-spread", "flat-line"}
"""Detectors that are as often right at their threshold: a level wanders, a spike does not."""
FAMILIES = {
    "deviation-spike": "point",
    "deviation-short": "level",
    "deviation-long": "level",
    "rank-up": "level",
    "deviation-spread": "spread",
    "rank-spread": "spread",
    "deviation-season": "season",
}
"""Detectors of one family see the same change: only agreement between families counts."""
_ORDER: dict[Severity, int] = {"low": 0, "medium": 1, "high": 2}


@dataclass(frozen=True, slots=True)
class Vote:
    """`ratio`: score over threshold; `expected`, `current`: the usual value, and the actual one."""

    detector: str
    ratio: float
    score: float
    threshold: float
    current: float
    expected: float


class Verdict:
    """The votes of one series that are being collected; empty most of the time."""

    __slots__ = ("_left", "_votes")

    def __init__(self) -> None:
        self._left = 0
        self._votes: dict[str, Vote] = {}

    def __bool__(self) -> bool:
        return bool(self._votes)

    def add(self, vote: Vote) -> None:
        """Add a vote; of each detector the strongest counts."""
        if not self._votes:
            self._left = SLOW_HOLD if vote.detector.startswith("rank-") else HOLD
        held = self._votes.get(vote.detector)
        if held is None or vote.ratio > held.ratio:
            self._votes[vote.detector] = vote

    def step(self) -> bool:
        """Count one more point; True when the votes must be counted."""
        self._left -= 1
        return self._left < 0

    def clear(self) -> None:
        """Drop the votes: they were counted, or another alarm came first."""
        self._votes.clear()

    def strongest(self) -> Vote:
        """The vote that is furthest beyond its threshold."""
        return max(self._votes.values(), key=lambda vote: vote.ratio)

    @property
    def agreeing(self) -> tuple[str, ...]:
        return tuple(sorted(self._votes))

    def severity(self) -> Severity:
        """The severity, by the certainty of the votes.

        >>> verdict = Verdict()
        >>> verdict.add(Vote("deviation-spike", 1.2, 9.6, 8.0, 0.1, 0.8)); verdict.severity()
        'medium'
        >>> verdict.add(Vote("deviation-spread", 1.4, 0.14, 0.1, 0.1, 0.0)); verdict.severity()
        'high'
        """
        best = max(vote.ratio for vote in self._votes.values())
        if best < SURE and self._votes.keys() <= {"deviation-long", "rank-up", "rank-spread"}:
            return "low"  # slow means have few independent values behind their thresholds: half of these are wrong
        families = {FAMILIES[detector] for detector in self._votes}
        if (best >= HIGH and families != {"level"}) or (best >= SURE and len(families) > 1):
            return "high"
        return "medium" if best >= MEDIUM or len(families) > 1 or CLEAR & self._votes.keys() else "low"

    def to_json(self) -> list[Any]:
        return [self._left, [list(astuple(vote)) for vote in self._votes.values()]]

    def load(self, data: list[Any]) -> None:
        self._left = data[0]
        self._votes = {row[0]: Vote(*row) for row in data[1]}


def at_least(severity: Severity, least: Severity) -> Severity:
    """The higher of the two.

    >>> at_least("low", "medium"), at_least("high", "medium")
    ('medium', 'high')
    """
    return severity if _ORDER[severity] >= _ORDER[least] else least


def at_most(severity: Severity, most: Severity) -> Severity:
    """The lower of the two."""
    return severity if _ORDER[severity] <= _ORDER[most] else most
