"""When a partition is stalled. Pure: positions, log ends and the time go in, stalled partitions come out.

A partition is stalled if it is polled, the broker has records beyond our position, and that position has not moved for
`after_s` seconds. A partition that is not polled (no room) or whose end is unknown (no answer) is never stalled. It
keeps one row per partition of the last check.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

P = TypeVar("P", bound=Hashable)


class Stalled(NamedTuple):
    """A stalled partition: our position, the log's end at the last check, seconds without progress."""

    position: int
    end: int
    for_s: float


@dataclass(slots=True)
class StallRule(Generic[P]):
    """Call it at every check; `after_s` seconds without progress make a stall.

    >>> rule = StallRule(after_s=30.0)
    >>> rule.look(0.0, {"p0": 5, "p1": 9}, {"p0": 8, "p1": 9})
    {}
    >>> rule.look(30.0, {"p0": 5, "p1": 9}, {"p0": 8, "p1": 12})
    {'p0': Stalled(position=5, end=8, for_s=30.0)}
    >>> rule.look(31.0, {"p0": 6, "p1": 9}, {"p0": 8, "p1": 12})
    {}
    """

    after_s: float
    _since: dict[P, tuple[int, float]] = field(default_factory=dict)
    """Position, and the first check at which it was behind and has not moved since."""

    def look(self, now: float, polled: Mapping[P, int], ends: Mapping[P, int]) -> dict[P, Stalled]:
        """`now`: monotonic seconds; `polled`: position of every polled partition; `ends`: known log ends.

        An end that is too low hides a stall; it never causes one.
        """
        before, self._since = self._since, {}
        stalled: dict[P, Stalled] = {}
        for partition, position in polled.items():
            end = ends.get(partition)
            if end is None or end <= position:
                continue
            old_position, since = before.get(partition, (position, now))
            if old_position != position:
                since = now
            self._since[partition] = (position, since)
            if now - since >= self.after_s:
                stalled[partition] = Stalled(position, end, now - since)
        return stalled

    def forget(self) -> None:
        """Start again: earlier positions belong to a consumer that is gone."""
        self._since.clear()
