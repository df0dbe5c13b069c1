"""Counts firing alarms by type and severity, updated with each change of a series instead of scanning all series.

In: a series after each change, and what was counted of it before. Out: the counts. Alarms that are held back are not
counted, since they are not published.
"""

from __future__ import annotations

from collections import Counter

from streams.rules.detection.alarms import type_of
from streams.rules.windows.series import Series

CountedAlarms = tuple[tuple[str, str], ...]
"""Type and severity of each published firing alarm of one series."""


class AlarmCount:
    """Over all series of a worker."""

    def __init__(self) -> None:
        self._on: Counter[tuple[str, str]] = Counter()

    def update(self, before: CountedAlarms, series: Series | None) -> CountedAlarms:
        """Replace what a series had counted `before` by its alarms now (`series` None: it is gone). Returns what is
        counted now.
        """
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
        """(type, severity) -> number of firing alarms."""
        return dict(self._on)
