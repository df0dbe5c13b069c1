"""Whether an agent has become overconfident: its mean confidence exceeds its success rate. A betting test with a proven
bound. Pure.

In: confidence and outcome of each point. Out: True when the evidence reaches the wanted run length; after that, True
when there is enough evidence that it has ended.

While the expected gap is at most `slack`, whatever the past, each bet 1 + l (gap - slack) has a mean of at most 1, so
the mean number of points to a false alarm is at least `run_length`. This needs neither independence nor a distribution.
"""

from __future__ import annotations

from typing import Any

from river.base import DriftDetector

BETS = (0.1, 0.3, 0.5)
"""At most 1 / (1 + slack) for every slack up to 0.9, or a payment could be negative."""
OVER = 100.0
"""Evidence that an episode has ended: wrong about once in a hundred times."""


class Overconfidence(DriftDetector):
    """One of river's drift detectors: the evidence of one stream, and sums since the estimated beginning of the
    overconfidence.

    >>> test = Overconfidence(0.1, 10_000)
    >>> any(test.observe(0.9, True) for _ in range(500)), any(test.observe(0.9, False) for _ in range(40))
    (False, True)
    """

    def __init__(self, slack: float = 0.1, run_length: float = 10_000.0) -> None:
        super().__init__()
        self.slack = slack
        self.run_length = run_length
        self.reset()

    def reset(self) -> None:
        """Forget the evidence and the sums."""
        self.evidence = [0.0] * len(BETS)
        self.begun = [0, 0.0, 0]  # points, sum of confidence, successes

    def _tally(self, confidence: float, success: bool) -> None:
        begun = self.begun
        begun[0] += 1
        begun[1] += confidence
        begun[2] += success

    def _bet(self, gap: float) -> float:
        one, two, three = self.evidence
        one = (one + 1) * (1 + 0.1 * gap)
        two = (two + 1) * (1 + 0.3 * gap)
        three = (three + 1) * (1 + 0.5 * gap)
        self.evidence = [one, two, three]
        return (one + two + three) / 3

    def observe(self, confidence: float, success: bool) -> bool:
        """Add one point while no episode is firing."""
        total = self._bet(confidence - success - self.slack)
        if total < 2:
            self.begun = [0, 0.0, 0]
        self._tally(confidence, success)
        return total >= self.run_length

    def update(self, x: float) -> None:
        """Add one gap (confidence less success), as in river: then read `drift_detected`. After a drift the evidence
        starts again.
        """
        if self._drift_detected:
            self.reset()
        self._drift_detected = self._bet(x - self.slack) >= self.run_length

    def watch_end(self) -> None:
        """An episode has begun: look for its end from here on."""
        self.evidence = [1.0] * len(BETS)
        self.begun = [0, 0.0, 0]

    def ended(self, confidence: float, success: bool) -> bool:
        """Add one point during an episode; True when the gap is within the slack again."""
        gap = confidence - success - self.slack
        self.evidence = [max(held, 1.0) * (1 - bet * gap) for held, bet in zip(self.evidence, BETS, strict=True)]
        if sum(self.evidence) < 1.5 * len(BETS):
            self.begun = [0, 0.0, 0]
        self._tally(confidence, success)
        return sum(self.evidence) / len(BETS) >= OVER

    def gap(self) -> tuple[float, float, int]:
        """Mean confidence, success rate and points since its estimated beginning (or end)."""
        count, confidence, successes = self.begun
        return (confidence / count, successes / count, int(count)) if count else (0.0, 0.0, 0)

    def to_json(self) -> list[Any]:
        return [self.evidence, self.begun]

    @classmethod
    def from_json(cls, data: list[Any], slack: float, run_length: float) -> Overconfidence:
        test = cls(slack, run_length)
        test.evidence, test.begun = list(data[0]), list(data[1])
        return test
