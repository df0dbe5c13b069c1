"""Scores each detector on labelled series: precision, recall, delay, false alarms a week. Pure.

In: labelled series with the alarms of one detector. Out: a row for each. An alarm within a window finds its incident;
further ones there do not count; every alarm outside is a false one. Alarms within `MERGED` points of the last one count
as one, for every detector. The first `PROBATION` points are for learning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streams.detection_bench.labelled import Labelled

PROBATION = 630
MERGED = 30
WEEK_MS = 7 * 86_400_000

Severities = Sequence[str]


@dataclass(frozen=True, slots=True)
class Alarm:
    """The point, and the severity: low, medium or high."""

    index: int
    severity: str = "high"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`incidents` of which `found`; `false` alarms; `delay`: mean points from an incident's begin to its first alarm."""

    detector: str
    family: str
    incidents: int
    found: int
    false: int
    delay: float
    weeks: float

    @property
    def recall(self) -> float:
        """Share of incidents that were found."""
        return self.found / self.incidents if self.incidents else 1.0

    @property
    def precision(self) -> float:
        """Share of found incidents among these and the false alarms."""
        return self.found / (self.found + self.false) if self.found + self.false else 1.0

    @property
    def false_a_week(self) -> float:
        """False alarms per series and week."""
        return self.false / self.weeks if self.weeks else 0.0


@dataclass(slots=True)
class _Tally:
    incidents: int = 0
    found: int = 0
    false: int = 0
    delays: int = 0
    weeks: float = 0.0


def judge(name: str, series: Sequence[tuple[Labelled, Sequence[Alarm]]], severities: Severities) -> Iterator[Judgement]:
    """One row over all series (family ""), then one for each family. `severities`: which alarms count."""
    tallies: dict[str, _Tally] = {"": _Tally()}
    for one, raised in series:
        alarms = [alarm.index for alarm in raised if alarm.severity in severities and alarm.index >= PROBATION]
        hits, false, delays = _compare(alarms, one)
        weeks = (one.points[-1][0] - one.points[PROBATION][0]) / WEEK_MS
        for tally in (tallies[""], tallies.setdefault(one.family, _Tally())):
            tally.incidents += len(one.windows)
            tally.found += hits
            tally.false += false
            tally.delays += delays
            tally.weeks += weeks
    for family, tally in tallies.items():
        delay = tally.delays / tally.found if tally.found else float("inf")
        yield Judgement(name, family, tally.incidents, tally.found, tally.false, delay, tally.weeks)


def _compare(alarms: Sequence[int], one: Labelled) -> tuple[int, int, int]:
    found: dict[int, int] = {}
    false, last = 0, -MERGED
    for index in alarms:
        window = next((w for w in one.windows if w.begin <= index <= w.end), None)
        if window is not None:
            found.setdefault(window.begin, index - window.begin + 1)
        elif index - last >= MERGED:
            false += 1
        last = index
    return len(found), false, sum(found.values())
