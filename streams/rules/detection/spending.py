"""Alarms about the cost of an agent's answers, and about the waits of its tasks. Pure.

In: a point's readings beside confidence and execution time (`measures.py`). Out: the anomaly `costly` when answers, or
one of them, cost a multiple of the former cost (tokens if no cost is known); and `slow`, under its own key, when tasks
wait four times as long as usual, and at least ten seconds. Waits depend on the load more than on the agent and are
correlated, so there is no promise about false alarms: such an alarm has severity `low`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from schemas.messages import Anomaly, AnomalyDetails
from streams.rules.detection.alarms import Alarms, Moment
from streams.rules.detection.pace import CALM, COST, LOG_BIN, PER_BIN, REBASE_POINTS, SETTLED, TOKENS, Pace
from streams.rules.detection.ring import Ring
from streams.rules.windows import measures

WAITING = "slow/wait"
LONG_MS = 10_000.0
LONG_BIN = measures.bucket_of("waitTime", LONG_MS) // PER_BIN
TIMES_SLOW = 2
"""A wait must have grown by this many times the factor of `slow`."""
RATE = 1 / 500
WARM = 30


class Waits:
    """The waits of one series' tasks. `usual`: the slow mean of the waits' bins; river's EWMean has no warm-up."""

    __slots__ = ("_count", "_ring", "_rise", "_usual")

    def __init__(self, slow_factor: float) -> None:
        self._ring = Ring()
        self._count = 0
        self._usual = 0.0
        self._rise = math.log(TIMES_SLOW * slow_factor) / LOG_BIN

    def observe(self, bucket: int, at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        bin_, ring = bucket // PER_BIN, self._ring
        ring.push(bin_)
        episode = alarms.firing.get(WAITING)
        if episode is not None:
            now = ring.mean(SETTLED)
            episode.calm = episode.calm + 1 if now - episode.baseline <= episode.shift / 2 else 0
            if episode.calm < CALM and episode.age < REBASE_POINTS:
                return []
            note = f"last {SETTLED} points: as before"
            if episode.calm < CALM:
                self._usual, note = ring.mean(REBASE_POINTS), f"{episode.age} points of it: the new normal"
            return alarms.resolve(WAITING, at, self._details(now, episode.baseline, note, confidence))
        found: list[Anomaly] = []
        if bin_ >= LONG_BIN and self._count >= WARM:
            now = ring.mean(SETTLED)
            if now >= LONG_BIN and now - self._usual >= self._rise:
                why = self._details(now, self._usual, f"last {SETTLED} points", confidence)
                found = alarms.fire(WAITING, at, "low", self._usual, why, now - self._usual, "up")
        self._count += 1
        self._usual += (bin_ - self._usual) * max(RATE, 1 / self._count)
        return found

    def _details(self, now: float, before: float, note: str, confidence: float) -> AnomalyDetails:
        times = [measures.value_of("waitTime", round(bin_ * PER_BIN + PER_BIN // 2)) for bin_ in (now, before)]
        return AnomalyDetails(
            current_confidence=round(confidence, 6),
            deviation=round(math.exp((now - before) * LOG_BIN), 3),
            threshold=round(math.exp(self._rise * LOG_BIN), 3),
            window=f"{note}; tasks wait {times[0]:.4g} ms, before {times[1]:.4g} ms",
            detector="wait",
        )

    def to_json(self) -> list[Any]:
        return [self._ring.to_json(), self._count, self._usual]

    def load(self, data: list[Any]) -> None:
        ring, self._count, self._usual = data
        self._ring = Ring.from_json(ring)


class Spending:
    """Waits and cost of one series; each begins with its first point."""

    __slots__ = ("_cost", "_cost_factor", "_run_length", "_slow_factor", "_waits")

    def __init__(self, slow_factor: float, cost_factor: float, run_length: float) -> None:
        self._slow_factor, self._cost_factor, self._run_length = slow_factor, cost_factor, run_length
        self._waits: Waits | None = None
        self._cost: Pace | None = None

    def observe(
        self, readings: Sequence[measures.Reading], at: Moment, alarms: Alarms, confidence: float
    ) -> list[Anomaly]:
        found: list[Anomaly] = []
        spent: dict[str, int] = {}
        for name, _, bucket in readings:
            if name == "waitTime":
                if self._waits is None:
                    self._waits = Waits(self._slow_factor)
                found += self._waits.observe(bucket, at, alarms, confidence)
            else:
                spent[name] = bucket
        if spent:
            found += self._spent(spent, at, alarms, confidence)
        return found

    def _spent(self, spent: dict[str, int], at: Moment, alarms: Alarms, confidence: float) -> list[Anomaly]:
        subject = COST if "cost" in spent else TOKENS
        bucket = spent.get("cost", spent.get("totalTokens"))
        if bucket is None:
            return []
        found: list[Anomaly] = []
        if self._cost is None or (self._cost.subject is TOKENS and subject is COST):
            # Prices have become known: values learnt in tokens do not apply to costs.
            why = AnomalyDetails(detector="rank-tokens", window="costs are known from here on")
            found = alarms.resolve(subject.key, at, why)
            self._cost = Pace(self._cost_factor, self._run_length, subject)
        if self._cost.subject is subject:  # otherwise it is one answer without a price among priced ones
            found += self._cost.observe(bucket, at, alarms, confidence)
        return found

    def to_json(self) -> list[Any]:
        cost = None if self._cost is None else [self._cost.subject.name, self._cost.to_json()]
        return [None if self._waits is None else self._waits.to_json(), cost]

    def load(self, data: list[Any]) -> None:
        waits, cost = data
        if waits is not None:
            self._waits = Waits(self._slow_factor)
            self._waits.load(waits)
        if cost is not None:
            subject = COST if cost[0] == COST.name else TOKENS
            self._cost = Pace.from_json(cost[1], self._cost_factor, self._run_length, subject)
