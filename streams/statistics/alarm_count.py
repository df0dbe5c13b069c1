"""How many alarms are on, by type and severity, kept beside series that change one at a time: nobody walks them all to know.

In: a series after each change, and what was counted of it before. Out: the counts. What is kept back is not counted, as it is
not told.
"""

from __future__ import annotations

from collections import Counter

from streams.rules.detection.alarms import type_of
from streams.rules.windows.series import Series

Told = tuple[tuple[str, str], ...]
"""Type and severity of each alarm of one series that is on and told."""


class AlarmCount:
    """Over all series of a worker."""

    def __init__(self) -> None:
        self._on: Counter[tuple[str, str]] = Counter()

    def moved(self, before: Told, series: Series | None) -> Told:
        """What of a series was counted `before`, and how it is now (None: forgotten); returns what is counted now."""
        detectors = None if series is None else series.detectors
        firing = {} if detectors is None else detectors.alarms.firing
        if not (firing or before):
            return before
        now = tuple((type_of(kind), episode.severity) for kind, episode in firing.items() if episode.scope != "hidden")
        if now != before:
            self._on.subtract(before)
            self._on.update(now)
        return now

    def clear(self) -> None:
        """No series is left."""
        self._on.clear()

    def by_kind(self) -> dict[tuple[str, str], int]:
        """(type, severity) -> how many are on."""
        return dict(self._on)
