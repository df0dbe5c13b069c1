"""The rule that `make bench-check` judges by: ratios beside committed ones, and a table that cannot be misread."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.bench.check import RATIOS, as_toml, report
from tests.bench.ratios import Bound, compare, read_bounds

CPU = "dispatch: CPU a task, x floor"
SPEED = "dispatch: tasks/s, x floor"
COMMITTED = {CPU: Bound(2.0, 0.2, "lower"), SPEED: Bound(0.5, 0.2, "higher")}
NAN = float("nan")


def verdicts(measured: dict[str, list[float]]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in compare(COMMITTED, measured)}


def test_a_ratio_within_its_noise_passes() -> None:
    findings = compare(COMMITTED, {CPU: [2.39], SPEED: [0.41]})
    assert [(finding.verdict, finding.fails) for finding in findings] == [("ok", False)] * 2


def test_more_cpu_and_less_speed_are_regressions_and_fail() -> None:
    findings = compare(COMMITTED, {CPU: [2.41], SPEED: [0.39]})
    assert [(finding.verdict, finding.fails) for finding in findings] == [("worse", True)] * 2


def test_less_cpu_and_more_speed_are_better_and_do_not_fail() -> None:
    findings = compare(COMMITTED, {CPU: [1.59], SPEED: [0.61]})
    assert [(finding.verdict, finding.fails) for finding in findings] == [("better", False)] * 2


def test_the_median_round_counts() -> None:
    """One round that other work disturbed is no regression; two of three are."""
    assert verdicts({CPU: [2.0, 2.1, 9.0], SPEED: [0.5]}) == {CPU: "ok", SPEED: "ok"}
    assert verdicts({CPU: [2.0, 8.0, 9.0], SPEED: [0.5]})[CPU] == "worse"


@pytest.mark.parametrize("rounds", [[], [NAN], [NAN, NAN]])
def test_a_ratio_that_was_not_measured_fails(rounds: list[float]) -> None:
    finding = compare(COMMITTED, {CPU: rounds, SPEED: [0.5]})[0]
    assert (finding.verdict, finding.measured, finding.fails) == ("missing", None, True)


def test_a_round_without_a_figure_is_left_out() -> None:
    assert verdicts({CPU: [NAN, 2.0], SPEED: [0.5]}) == {CPU: "ok", SPEED: "ok"}


def test_a_ratio_that_nobody_committed_fails() -> None:
    assert verdicts({CPU: [2.0], SPEED: [0.5], "new": [1.0]})["new"] == "unknown"
    assert compare({}, {"new": [1.0]})[0].fails


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"value": 0, "noise": 0.2, "better": "lower"}, "value must be a number above 0"),
        ({"value": NAN, "noise": 0.2, "better": "lower"}, "value must be a number above 0"),
        ({"value": True, "noise": 0.2, "better": "lower"}, "value must be a number above 0"),
        ({"value": 1.0, "noise": 1.0, "better": "lower"}, "noise must be a share between 0 and 1"),
        ({"value": 1.0, "noise": "0.2", "better": "lower"}, "noise must be a share between 0 and 1"),
        ({"value": 1.0, "noise": 0.2, "better": "less"}, "better must be lower or higher"),
        ({"value": 1.0, "noise": 0.2}, "needs exactly value, noise and better"),
        (1.0, "needs exactly value, noise and better"),
    ],
)
def test_a_bad_row_is_an_error_that_names_the_ratio(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{CPU}: {reason}"):
        read_bounds({CPU: row})


def test_the_committed_table_can_be_read_and_is_what_the_check_writes() -> None:
    text = RATIOS.read_text("utf-8")
    bounds = read_bounds(tomllib.loads(text))
    assert bounds
    assert as_toml(compare(bounds, {name: [bound.value] for name, bound in bounds.items()})) == text


def test_writing_renews_the_values_and_keeps_noise_and_direction() -> None:
    written = read_bounds(tomllib.loads(as_toml(compare(COMMITTED, {CPU: [3.0], SPEED: [0.9], "new": [1.2]}))))
    assert written[CPU] == Bound(3.0, 0.2, "lower")
    assert written[SPEED] == Bound(0.9, 0.2, "higher")
    assert written["new"].value == 1.2


def test_the_report_names_both_sides() -> None:
    lines = report(compare(COMMITTED, {CPU: [2.41]})).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[2:] == [
        [CPU, "2.00 +-20%, lower is better", "2.41", "worse"],
        [SPEED, "0.50 +-20%, higher is better", "", "missing"],
    ]
