"""Statistics of one agent's recent calls: times, confidence, ejection.

In: ends of calls. Out: figures for hedging and the balancer, which decide by them.
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
    """Statistics of one agent.

    `hedges`: second calls made so far. `worth(confidence)`: the calibrated confidence, by how earlier answers turned
    out; None if unknown. `calibrated`: the smoothed calibrated confidence; it has no value while outcomes are unknown.

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
        """Add a call that ended. `confidence`: of the answer, None if it is rated later. A failure of the agent counts
        as confidence 0.
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
        """Add the confidence of an answer that was rated later."""
        self.confidence.add(confidence)
        worth = self.worth(confidence)
        if worth is None:
            self.calibrated.value = None
        else:
            self.calibrated.add(worth)
