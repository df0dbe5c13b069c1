"""The generator makes what it says, the limit is the known one, and the measurements are repeatable."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from streams.cli.main import build
from streams.detection_bench.candidates import ours, rivers
from streams.detection_bench.evaluate import STABLE, costs, delays, run_lengths
from streams.detection_bench.generator import Change, Shape, stream
from streams.detection_bench.optimum import optimum
from streams.detection_bench.plot import bars, svg


def made(shape: Shape, count: int = 20_000, change: Change | None = None, seed: int = 1) -> list[float]:
    """One stream."""
    return list(stream(Random(seed), shape, count, change))


def test_shapes_have_the_mean_spread_rounding_and_correlation_they_name() -> None:
    """Beta(.85, 20): deviation .078; rounded: multiples; correlated: lag 1 as asked; constant: constant."""
    plain = made(Shape())
    assert statistics.fmean(plain) == pytest.approx(0.85, abs=0.003)
    assert statistics.stdev(plain) == pytest.approx(0.078, abs=0.002)
    assert made(Shape()) == plain != made(Shape(), seed=2)
    assert all(abs(value * 20 - round(value * 20)) < 1e-9 for value in made(Shape(rounding=0.05), 500))
    held = made(Shape(phi=0.5))
    assert statistics.correlation(held[1:], held[:-1]) == pytest.approx(0.5, abs=0.04)
    assert abs(statistics.correlation(plain[1:], plain[:-1])) < 0.03
    assert set(made(Shape("constant", mean=0.95), 100)) == {0.95}
    daily = made(Shape(amplitude=0.1, period=1000))
    assert statistics.fmean(daily[200:300]) - statistics.fmean(daily[700:800]) > 0.1


def test_changes_begin_where_they_are_told_to_and_do_what_they_name() -> None:
    """Before: the same stream as without; after: lower, slowly lower, wider, partly lower, or stuck."""
    usual = made(Shape(), 4000)

    def changed(kind: str, **more: float) -> list[float]:
        found = made(Shape(), 4000, Change(kind, 2000, **more))  # type: ignore[arg-type]
        assert found[:2000] == usual[:2000]
        return found[2000:]

    assert statistics.fmean(changed("drop", size=0.2)) == pytest.approx(0.65, abs=0.01)
    ramp = changed("ramp", size=0.2, over=1000)
    assert all(a > b for a, b in pairwise(statistics.fmean(ramp[i : i + 250]) for i in range(0, 1000, 250)))
    assert statistics.stdev(changed("variance", size=0.2)) > 1.4 * statistics.stdev(usual)
    low = sum(1 for value in changed("mixture", size=0.5, share=0.3) if value < 0.55)
    assert 0.2 < low / 2000 < 0.4
    assert len(set(changed("stuck"))) == 1


@pytest.mark.parametrize(("size", "delay"), [(0.1, 12.0), (0.2, 4.2), (0.3, 2.4)])
def test_the_limit_is_the_published_one(size: float, delay: float) -> None:
    """Optimal CUSUM, Beta(.85, 20), run length 10,000: simulated elsewhere as 12.0, 4.2, 2.4."""
    found = optimum(0.85, 0.85 - size, 20, 10_000)
    assert found.run_length == pytest.approx(10_000, rel=1e-3)
    assert found.delay == pytest.approx(delay, abs=0.06)


def test_ours_are_within_one_and_a_half_times_the_limit_and_rivers_defaults_are_not() -> None:
    """Forty runs each: enough to tell 1.3 from 10."""
    rows = list(delays([ours(10_000)[1], *rivers()], Shape(), 40, 3, 10_000, other=False))
    for row in rows:
        assert row.limit is not None
        assert row.missed == 0
        assert (row.mean <= 1.5 * row.limit) == (row.detector == "rank test alone"), row
    assert len(bars(rows)) == 3 * 4
    assert "t &lt;&amp;&gt;" in svg(rows, "t <&>")


def test_constant_streams_bring_no_alarm_and_the_same_seed_the_same_figures() -> None:
    """Of the whole, with every detector on."""
    shapes = {"constant": STABLE["constant"], "two values": Shape(rounding=0.25)}
    first = list(run_lengths(ours(10_000)[:1], 10_000, 1, shapes))
    assert first == list(run_lengths(ours(10_000)[:1], 10_000, 1, shapes))
    assert [row.alarms for row in first] == [0, 0]
    clock = iter(range(10))
    (cost,) = costs(ours(10_000)[:1], 1000, 1, lambda: float(next(clock)))
    assert cost.us == 1000.0
    assert 4 < cost.kib < 16


def test_the_command_prints_figures_and_writes_the_plot(tmp_path: Path) -> None:
    """Small, and as JSON."""
    plot = tmp_path / "x.svg"
    arguments = [
        "bench",
        "detect",
        "--runs",
        "3",
        "--points",
        "1000",
        "--series",
        "1",
        "--no-river",
        "--plot",
        str(plot),
        "-o",
        "json",
    ]
    ended = CliRunner().invoke(build(), arguments)
    assert ended.exit_code == 0, ended.output
    figures = json.loads(ended.stdout)
    assert {"delays", "runLengths", "labelled", "costs"} == figures.keys()
    assert len(figures["runLengths"]) == 2 * len(STABLE)
    assert plot.read_text().startswith("<svg")
    assert CliRunner().invoke(build(), [*arguments[:-4], "--plot", str(tmp_path / "no" / "x.svg")]).exit_code != 0
