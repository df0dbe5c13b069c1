"""Whether an agent is healthy, by its health checks (`Checks`) and by how its calls end (`Ejection`). Pure.

In: answers to health checks, ends of calls, the time (monotonic seconds, never going back). Out: healthy or not, and
until when.

Either may say no. Checks: unhealthy after some failures in a row, healthy again after some passes in a row. Ejection:
some failed calls in a row put the agent out for a while, longer each time; time alone brings it back. Both matter only
for the choice among several agents: a task that names its agent depends on the circuit alone.
`streams/rules/dispatch/balancing.py` decides how many capable agents may be out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents_io.calling.rules.breaker import Outcome


@dataclass(frozen=True, slots=True)
class ChecksConfig:
    """How many failed checks in a row make an agent unhealthy, and how many passed ones healthy again. Raises
    ValueError.
    """

    unhealthy_after: int = 3
    healthy_after: int = 2

    def __post_init__(self) -> None:
        if min(self.unhealthy_after, self.healthy_after) < 1:
            raise ValueError("unhealthy_after and healthy_after must be at least 1")


class Checks:
    """Whether one agent is healthy, by its health checks.

    >>> checks = Checks(ChecksConfig(unhealthy_after=2, healthy_after=2))
    >>> [checks.observe(well) for well in (False, False, True, True)]
    [True, False, False, True]
    """

    __slots__ = ("_config", "_failed", "_passed", "well")

    def __init__(self, config: ChecksConfig | None = None, *, well: bool = True) -> None:
        """`well`: whether the agent is healthy before the first check."""
        self.well = well
        self._config = config or ChecksConfig()
        self._failed = self._passed = 0

    def observe(self, well: bool) -> bool:
        """Add the outcome of a check. Returns whether the agent is healthy now."""
        self._failed = 0 if well else self._failed + 1
        self._passed = self._passed + 1 if well else 0
        if self._failed >= self._config.unhealthy_after:
            self.well = False
        elif self._passed >= self._config.healthy_after:
            self.well = True
        return self.well


@dataclass(frozen=True, slots=True)
class EjectionConfig:
    """Ejected after `after` failed calls in a row (0: never), for `base_s` times the number of ejections in a row, at
    most `max_s`. Seconds. Raises ValueError.
    """

    after: int = 5
    base_s: float = 30.0
    max_s: float = 300.0

    def __post_init__(self) -> None:
        if self.after < 0 or not 0 < self.base_s <= self.max_s:
            raise ValueError("after must be at least 0, base_s above 0 and at most max_s")


class Ejection:
    """Whether one agent is ejected because of failed calls.

    >>> ejection = Ejection(EjectionConfig(after=2))
    >>> for now in (0.0, 1.0, 40.0, 41.0):
    ...     ejection.called("failure", now)
    >>> ejection.out(100.9), ejection.out(101.0)
    (True, False)
    """

    __slots__ = ("_config", "_failed", "_times", "until")

    def __init__(self, config: EjectionConfig | None = None) -> None:
        self.until = float("-inf")
        """The agent is ejected before this time."""
        self._config = config or EjectionConfig()
        self._failed = 0
        self._times = 0

    def out(self, now: float) -> bool:
        return now < self.until

    def called(self, outcome: Outcome, now: float) -> None:
        """Add the end of a call. Neutral ends (cancelled, 4xx, 429) do not count.

        After as long without a failure as the first ejection lasted, the next one counts as the first again.
        """
        if outcome == "success":
            self._failed = 0
            if self._times and now >= self.until + self._config.base_s:
                self._times = 0
        elif outcome == "failure" and self._config.after:
            self._failed += 1
            if self._failed >= self._config.after and now >= self.until:
                self._times += 1
                self._failed = 0
                self.until = now + min(self._config.base_s * self._times, self._config.max_s)

    def snapshot(self, now: float) -> dict[str, int] | None:
        """The state as JSON; None if no failure is remembered."""
        if not (self._failed or self._times):
            return None
        left_ms = int((self.until - now) * 1000) + 1 if now < self.until else 0
        return {"failed": self._failed, "ejections": self._times, "ejectedFor": left_ms}

    def restore(self, snapshot: Mapping[str, Any], taken_at: float) -> None:
        """Restore from a snapshot. `taken_at`: when it was taken, on this process's monotonic clock."""
        self._failed = int(snapshot.get("failed", 0))
        self._times = int(snapshot.get("ejections", 0))
        if left_ms := snapshot.get("ejectedFor"):
            self.until = taken_at + left_ms / 1000
