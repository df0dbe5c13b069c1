"""The simulation of statistics finds nothing, and finds what is taken out of the rules it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from streams.statistics.aggregator import Aggregator
from streams.statistics.table import StatsTable
from tests.simulation import statistics


@pytest.mark.parametrize("seed", range(1, 7))
def test_windows_alarms_and_calibrations_are_right(seed: int) -> None:
    """Through deaths, zombies and compaction; both were felt over a few seeds."""
    assert statistics.violations(seed)[0] == []


def test_the_faults_are_felt() -> None:
    """Over a few seeds each of them."""
    worlds = [statistics.violations(seed)[1] for seed in range(1, 7)]
    assert sum(world.deaths for world in worlds) > 5
    assert sum(world.zombies for world in worlds) > 1
    assert sum(world.compactions for world in worlds) > 1


def _the_later_row_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def recover(self: StatsTable, records: Iterable[Any], recovery: Any = None) -> None:
        for record in records:
            if record.value is None:
                self.data.pop(record.key, None)
            else:
                self.data[record.key] = record.value

    monkeypatch.setattr(StatsTable, "recover", recover)


def _rows_stay_beneath_older_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StatsTable, "overtaken", lambda self: [])


def _state_before_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def store(self: Aggregator, touched: Any, outputs: Any, now: float, releases: int, **how: Any) -> None:
        for live in touched:
            await self._write(self.state.rows(live), releases)
        await real(self, touched, outputs, now, releases, **how)

    real = Aggregator._store
    monkeypatch.setattr(Aggregator, "_store", store)


@pytest.mark.parametrize(
    ("mutate", "first"), [(_the_later_row_wins, 1), (_rows_stay_beneath_older_ones, 41), (_state_before_outputs, 1)]
)
def test_a_rule_that_is_taken_out_is_missed(
    monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None], first: int
) -> None:
    """By one of a few seeds; `first` found it when this was written."""
    mutate(monkeypatch)
    assert any(statistics.violations(seed)[0] for seed in range(first, first + 60))
