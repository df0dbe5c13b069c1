"""`parallax bench detect`: generated streams with known changes; each detector's delay, false alarms and cost beside
the theoretical limit.

Needs no broker. The same seed gives the same figures, except the cost.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli.options import FAILED, CommandError, Format, OutputFormat
from streams.cli.output import document, json_line, line, say, table

SEVERITIES = ("low", "medium", "high")

app = typer.Typer(help="Measure detectors on made streams.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def bench() -> None:
    """Measure detectors on generated streams."""


@app.command("detect")
def detect(
    run_length: Annotated[
        float, typer.Option(min=100, metavar="POINTS", help="wanted mean number of points between false alarms")
    ] = 10_000,
    runs: Annotated[int, typer.Option(min=2, max=100_000, help="changes of each kind to try")] = 150,
    points: Annotated[int, typer.Option(min=1000, max=100_000_000, help="points of each stable stream")] = 100_000,
    seed: Annotated[int, typer.Option(help="seed of the streams")] = 1,
    kappa: Annotated[
        float, typer.Option(min=1, max=1000, help="concentration of the confidences (20: standard deviation .078)")
    ] = 20.0,
    series: Annotated[
        int, typer.Option(min=1, max=1000, help="labelled series of each kind (seasonal, trending, heavy-tailed, ...)")
    ] = 5,
    river: Annotated[bool, typer.Option(help="compare with river's detectors")] = True,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="write the delays as an SVG file")] = None,
    output: OutputFormat = None,
) -> None:
    """Print delay, run length, precision, recall and cost of each detector.

    Labelled series are two weeks of points every five minutes with incidents at known times: they show which alarms are
    right. Streams are independent Beta confidences around .85; for the run lengths also rounded, skewed, constant,
    correlated and daily ones. The limit is the optimal CUSUM, which knows both distributions, at the same run length.
    Takes about a minute.
    """
    form = output or Format.text
    result = _measured(run_length, runs, points, seed, kappa, river, series)
    if plot is not None:
        _draw(plot, result, run_length)
    if form is Format.text:
        _show(result)
    elif form is Format.json:
        document(_plain(result), form)
    else:
        for kind, rows in _plain(result).items():
            for row in rows:
                json_line({"kind": kind, **row})


def _measured(
    run_length: float, runs: int, points: int, seed: int, kappa: float, river: bool, series: int
) -> dict[str, list[Any]]:
    import time

    from streams.detection_bench.candidates import judged, ours, rivers
    from streams.detection_bench.evaluate import costs, delays, run_lengths
    from streams.detection_bench.generator import Shape
    from streams.detection_bench.judge import judge
    from streams.detection_bench.labelled import made

    candidates = ours(run_length) + (rivers() if river else [])
    say(f"delays: {runs} runs of each change after 1,000 normal points")
    late = list(delays(candidates, Shape(kappa=kappa), runs, seed, run_length))
    say(f"run lengths: {points:,} points of each stable stream")
    long = list(run_lengths(candidates, points, seed))
    labelled = made(series, seed)
    say(f"labelled series: {len(labelled)} with {sum(len(one.windows) for one in labelled)} incidents")
    right: list[Any] = []
    for name, run in judged() if river else judged(kswin=False)[:1]:
        alarms = [(one, run(one)) for one in labelled]
        for least in SEVERITIES if name == "parallax" else SEVERITIES[-1:]:
            rows = judge(name, alarms, SEVERITIES[SEVERITIES.index(least) :])
            title = f"{name}, severity >= {least}" if name == "parallax" else name
            right += [replace(row, detector=title) for row in rows]
    return {
        "delays": late,
        "runLengths": long,
        "labelled": right,
        "costs": list(costs(candidates, 20_000, seed, time.process_time)),
    }


def _plain(result: dict[str, list[Any]]) -> dict[str, list[dict[str, Any]]]:
    plain = {kind: [asdict(row) for row in rows] for kind, rows in result.items()}
    for row in plain["delays"]:
        for name in ("mean", "error", "p95"):
            row[name] = row[name] if row[name] != float("inf") else None
    for row, judgement in zip(plain["labelled"], result["labelled"], strict=True):
        row["delay"] = row["delay"] if row["delay"] != float("inf") else None
        row |= {
            "precision": judgement.precision,
            "recall": judgement.recall,
            "falseAlarmsAWeek": judgement.false_a_week,
        }
    for row in plain["runLengths"]:
        row["runLength"] = row["points"] / max(row["alarms"], 1)
    return plain


def _show(result: dict[str, list[Any]]) -> None:
    from streams.detection_bench.plot import bars

    table(
        ("change", "detector", "mean delay", "+-", "p95", "of the limit", "missed", "alarm before"),
        [
            (
                row.change,
                row.detector,
                f"{row.mean:.1f}",
                f"{row.error:.1f}",
                f"{row.p95:.0f}",
                "-" if row.limit is None else f"{row.mean / row.limit:.2f} x {row.limit:.1f}",
                row.missed,
                row.early,
            )
            for row in result["delays"]
        ],
        title="points from the change to the alarm",
    )
    line("")
    table(
        ("stable stream", "detector", "points", "alarms", "points per alarm"),
        [
            (
                row.stream,
                row.detector,
                f"{row.points:,}",
                row.alarms,
                f"{'> ' if row.alarms == 0 else ''}{row.run_length:,.0f}",
            )
            for row in result["runLengths"]
        ],
        title="false alarms",
    )
    line("")
    labelled = [row for row in result["labelled"] if row.family == ""]
    families = [row for row in result["labelled"] if row.family and row.detector.endswith("medium")]
    table(
        ("detector", "series", "incidents", "precision", "recall", "mean delay", "false alarms a week"),
        [
            (
                row.detector,
                row.family or "all",
                row.incidents,
                f"{row.precision:.2f}",
                f"{row.recall:.2f}",
                f"{row.delay:.1f}",
                f"{row.false_a_week:.2f}",
            )
            for row in labelled + families
        ],
        title="labelled series: a point every five minutes, two weeks and more",
    )
    line("")
    costs = [(row.detector, f"{row.us:.2f}", f"{row.kib:.1f}") for row in result["costs"]]
    table(("detector", "us a point", "KiB a stream"), costs, title="CPU and memory")
    line("")
    for text in bars(result["delays"]):
        line(text)


def _draw(path: Path, result: dict[str, list[Any]], run_length: float) -> None:
    from streams.detection_bench.plot import svg

    title = f"Mean points from a drop to the alarm, run length {run_length:,.0f}; red: the limit"
    try:
        path.write_text(svg(result["delays"], title), "utf-8")
    except OSError as error:
        raise CommandError(f"--plot {path}: {error.strerror or error}", FAILED) from None
