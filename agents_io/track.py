"""What is known of one agent's recent calls, beside its lane: times, confidence, retry budget, ejection.

In: ends of calls. Out: what the caller asks before a second try, and what those that choose among agents want to know. It decides
nothing itself: the rules do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agents_io.rules.breaker import Outcome
from agents_io.rules.budget import RetryBudget
from agents_io.rules.health import Ejection
from agents_io.rules.latency import Latency, Smoothed


def _not_known(confidence: float) -> float | None:
    return None


@dataclass(slots=True)
class Track:
    """One agent's. `called_at`: when its last call ended, loop time; `hedges`: second calls beside a first one so far.

    `worth`: what a confidence that the agent states is worth, by how its answers turned out; None where that is not known.
    `calibrated`: as `confidence`, of what they are worth; it has no value while that is not known.

    >>> track = Track(worth=lambda confidence: confidence / 2)
    >>> track.ended("success", 0.1, 0.9, now=1.0)
    >>> track.confidence.value, track.calibrated.value
    (0.9, 0.45)
    """

    budget: RetryBudget = field(default_factory=RetryBudget)
    ejection: Ejection = field(default_factory=Ejection)
    latency: Latency = field(default_factory=Latency)
    confidence: Smoothed = field(default_factory=Smoothed)
    calibrated: Smoothed = field(default_factory=Smoothed)
    worth: Callable[[float], float | None] = _not_known
    called_at: float = 0.0
    hedges: int = 0

    def ended(self, outcome: Outcome, took_s: float, confidence: float, now: float) -> None:
        """A call ended. `confidence` counts for an answer; a failure of the agent's own counts as none at all."""
        self.called_at = now
        self.ejection.called(outcome, now)
        if outcome == "success":
            self.latency.add(took_s)
            self.confidence.add(confidence)
            worth = self.worth(confidence)
            if worth is None:
                self.calibrated.value = None
            else:
                self.calibrated.add(worth)
        elif outcome == "failure":
            self.confidence.add(0.0)
            if self.calibrated.value is not None:
                self.calibrated.add(0.0)
