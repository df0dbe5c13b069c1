"""When to open a partition again that could not be opened, or that was lost, and when to give up. Pure.

In: how a try ended. Out: the pause before the next one, and whether another one can help. Unreachable brokers are
waited for; their refusals, and faults of our own, are tried a few times.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RESTART_PAUSE_S = 1.0
MAX_START_PAUSE_S = 5.0
MAX_REOPEN_PAUSE_S = 30.0
MAX_LOSSES = 8
"""Starts of one partition without a commit that ended in a fault which waiting does not repair: after this many, no
further start.
"""
START_TRIES = 30
"""Starts of one partition in a row that were refused. Unreachable brokers do not count."""
BUG_TRIES = 3
UNAUTHORIZED_TRIES = 6
"""New rights take a moment to reach all brokers."""
TELL_EVERY = 6


@dataclass(slots=True)
class OpeningTries:
    """The tries to open one partition. `pause_s`: before the next one; `tries`: those that failed at the brokers.

    >>> opening = OpeningTries()
    >>> for _ in range(UNAUTHORIZED_TRIES):
    ...     opening.failed(transient=False, unauthorized=True)
    >>> opening.pause_s, opening.tries, opening.is_hopeless()
    (5.0, 6, True)
    """

    pause_s: float = 0.0
    tries: int = 0
    _refused: int = 0

    def failed(self, *, transient: bool, unauthorized: bool) -> None:
        """A try failed at the brokers: `transient`, they were unreachable; `unauthorized`, a right is missing."""
        self.tries += 1
        self._refused += max(1, START_TRIES // UNAUTHORIZED_TRIES) if unauthorized else not transient
        self.pause_s = min(max(RESTART_PAUSE_S, self.pause_s * 2), MAX_START_PAUSE_S)

    def broke(self) -> None:
        """A try failed by a fault of our own, or of the Kafka client."""
        self._refused += START_TRIES // BUG_TRIES
        self.pause_s = RESTART_PAUSE_S

    def is_hopeless(self) -> bool:
        """Whether another try cannot help."""
        return self._refused >= START_TRIES

    @property
    def is_news(self) -> bool:
        """Whether the last try deserves a warning."""
        return self.tries <= TELL_EVERY or self.tries % TELL_EVERY == 0


@dataclass(slots=True)
class Losses:
    """How often each partition was lost since it last committed.

    >>> losses = Losses()
    >>> [losses.lost(3, committed=False, transient=True) for _ in range(2)], losses.lost(3, committed=True, transient=False)
    ([1, 2], 1)
    >>> losses.is_hopeless(3), losses.pause_s(1, session_timeout_s=45.0)
    (False, 11.25)
    """

    _counts: dict[int, int] = field(default_factory=dict)
    _hopeless: dict[int, int] = field(default_factory=dict)

    def lost(self, number: int, *, committed: bool, transient: bool) -> int:
        """A partition was lost. `committed`: it had committed since it was opened. Returns how often it was lost since
        the last commit.
        """
        if committed:
            self._counts[number] = self._hopeless[number] = 0
        self._counts[number] = self._counts.get(number, 0) + 1
        self._hopeless[number] = self._hopeless.get(number, 0) + (not transient)
        return self._counts[number]

    def hopeless(self, number: int) -> int:
        """The number of losses that no wait can repair."""
        return self._hopeless.get(number, 0)

    def is_hopeless(self, number: int) -> bool:
        """Whether another start cannot help."""
        return self.hopeless(number) >= MAX_LOSSES

    @staticmethod
    def pause_s(losses: int, *, session_timeout_s: float) -> float:
        """Seconds before the next start. Longer than a heartbeat: a worker that was frozen first learns that its
        partitions moved.
        """
        first_s = max(RESTART_PAUSE_S, session_timeout_s / 4)
        return min(first_s * 2.0 ** min(losses - 1, 8), MAX_REOPEN_PAUSE_S)
