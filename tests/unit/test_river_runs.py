"""River works in every default verdict, and only where statistics run."""

from __future__ import annotations

import subprocess
import sys
from random import Random
from typing import Any

import pytest
from river.anomaly import StandardAbsoluteDeviation
from river.base import AnomalyDetector, DriftDetector
from river.stats import EWMean

from schemas.messages import Anomaly
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.deviation import Deviation
from streams.rules.detection.overconfidence import Overconfidence
from streams.rules.detection.ranks import RankTest


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def _found(values: list[float]) -> list[Anomaly]:
    detectors = Detectors(SeriesId("a", "", ""), Thresholds())
    found = [a for i, value in enumerate(values) for a in detectors.observe(value, Moment(0, i, i * 1000))]
    return [anomaly for anomaly in found if anomaly.state == "firing"]


def _steady(count: int, seed: int = 1) -> list[float]:
    rng = Random(seed)
    return [0.7 + rng.gauss(0, 0.03) for _ in range(count)]


def test_without_river_nothing_is_detected() -> None:
    """The default detectors cannot even be imported."""
    ended = _python("import sys; sys.modules['river'] = None\nimport streams.rules.detection.detectors")
    assert ended.returncode != 0
    assert "river" in ended.stderr


def test_the_default_detectors_are_rivers_classes() -> None:
    """Whoever has code for river's detectors can use ours."""
    assert isinstance(RankTest(), DriftDetector)
    assert isinstance(Overconfidence(), DriftDetector)
    assert isinstance(Deviation(), AnomalyDetector)


def test_a_spike_is_what_river_scores_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a scorer that says nothing the same spike is not found."""
    values = [*_steady(600), 0.99, *_steady(20, 2)]
    assert [anomaly.type for anomaly in _found(values)] == ["outlier"]
    monkeypatch.setattr(StandardAbsoluteDeviation, "score_one", lambda *_: 0.0)
    assert not any(anomaly.details.detector == "deviation-spike" for anomaly in _found(values))


def test_a_rise_is_what_rivers_means_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest points' means are river's: with means that stand still the rise is the rank test's alone."""
    values = [*_steady(600), *(value + 0.15 for value in _steady(40, 2))]
    assert any(anomaly.details.detector.startswith("deviation-") for anomaly in _found(values))
    update: Any = EWMean.update

    def once(self: Any, x: float) -> None:
        if self.get() == 0:
            update(self, x)

    monkeypatch.setattr(EWMean, "update", once)
    assert not any(anomaly.details.detector in ("deviation-short", "deviation-long") for anomaly in _found(values))


def test_a_worker_without_statistics_imports_neither_river_nor_what_it_needs() -> None:
    """They take more memory than all the rest of it."""
    code = (
        "import sys, streams.worker, streams.dispatch.role, streams.plans.role\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'river', 'numpy', 'scipy', 'faust'}))"
    )
    ended = _python(code)
    assert ended.stdout.strip() == "[]", ended.stderr
