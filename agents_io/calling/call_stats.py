"""Statistics of one agent's recent calls, beside its queue: times, confidence, ejection.

In: ends of calls. Out: what hedging and the balancer ask for. It decides nothing itself: the rules do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agents_io.calling.rules.breaker import Outcome
from agents_io.calling.rules.health import Ejection
from agents_io.calling.rules.latency import Latency, Smoothed
from schemas.messages import ErrorCode


def _not_known(confidence: float) -> float | None:
    return None


@dataclass(slots=True)
class CallStats:
    """One agent's. `hedges`: second calls beside a first one so far.

    `worth`: what a confidence that the agent states is worth, by how its answers turned out; None where that is not known.
    `calibrated`: as `confidence`, of what they are worth; it has no value while that is not known.

    >>> stats = CallStats(worth=lambda confidence: confidence / 2)
    >>> stats.ended("success", 0.1, 0.9, now=1.0)
    >>> stats.confidence.value, stats.calibrated.value
    (0.9, 0.45)
    """

    ejection: Ejection = field(default_factory=Ejection)
    latency: Latency = field(default_factory=Latency)
    confidence: Smoothed = field(default_factory=Smoothed)
    calibrated: Smoothed = field(default_factory=Smoothed)
    worth: Callable[[float], float | None] = _not_known
    hedges: int = 0
    answered_at: float = float("-inf")
    """When the agent last gave an answer, monotonic seconds."""
    failure: tuple[ErrorCode, str] | None = None
    """Code and message of the last call that counted against the agent."""

    def ended(self, outcome: Outcome, took_s: float, confidence: float | None, now: float) -> None:
        """A call ended. `confidence` counts for an answer (None: it has none by itself); a failure of the agent's own counts as
        none at all.
        """
        self.ejection.called(outcome, now)
        if outcome == "success":
            self.answered_at = now
            self.latency.add(took_s)
            if confidence is not None:
                self.rated(confidence)
        elif outcome == "failure":
            self.confidence.add(0.0)
            if self.calibrated.value is not None:
                self.calibrated.add(0.0)

    def rated(self, confidence: float) -> None:
        """An answer has its confidence."""
        self.confidence.add(confidence)
        worth = self.worth(confidence)
        if worth is None:
            self.calibrated.value = None
        else:
            self.calibrated.add(worth)
