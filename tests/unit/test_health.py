"""Checks and ejections, against the plainest models."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents_io.calling.rules.health import Checks, ChecksConfig, Ejection, EjectionConfig


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_checks_turn_after_so_many_in_a_row(said: list[bool], bad: int, good: int, well: bool) -> None:
    """Against the whole history: the last run long enough decides."""
    checks = Checks(ChecksConfig(bad, good), well=well)
    expected = well
    for end in range(1, len(said) + 1):
        if not any(said[:end][-bad:]) and end >= bad:
            expected = False
        elif all(said[:end][-good:]) and end >= good:
            expected = True
        assert checks.observe(said[end - 1]) == expected


def test_out_longer_each_time_up_to_a_bound() -> None:
    """30, 60, 90 s, never beyond the maximum."""
    ejection = Ejection(EjectionConfig(after=3, base_s=30.0, max_s=80.0))
    now = 0.0
    lengths = []
    for _ in range(4):
        for _ in range(3):
            assert not ejection.out(now)
            ejection.called("failure", now)
        assert ejection.out(now)
        lengths.append(ejection.until - now)
        now = ejection.until
    assert lengths == [30.0, 60.0, 80.0, 80.0]


def test_only_failures_in_a_row_count() -> None:
    """A success between them begins anew; neutral ends say nothing; after 0 means never."""
    ejection = Ejection(EjectionConfig(after=2))
    for outcome in ("failure", "success", "failure", "neutral", "neutral"):
        ejection.called(outcome, 1.0)  # type: ignore[arg-type]
    assert not ejection.out(1.0)
    ejection.called("failure", 2.0)
    assert ejection.out(2.0)
    never = Ejection(EjectionConfig(after=0))
    for _ in range(99):
        never.called("failure", 0.0)
    assert not never.out(0.0)


def test_late_failures_do_not_prolong_it() -> None:
    """Calls that were under way when it was put out; and a good while makes the next time a first one."""
    ejection = Ejection(EjectionConfig(after=1, base_s=30.0))
    ejection.called("failure", 0.0)
    ejection.called("failure", 1.0)
    assert ejection.until == 30.0
    ejection.called("success", 61.0)
    ejection.called("failure", 62.0)
    assert ejection.until == 92.0


@settings(deadline=None)
@given(st.lists(st.sampled_from(["success", "failure", "neutral"]), max_size=40), st.floats(0, 100))
def test_it_moves_with_its_partition(outcomes: list[str], idle_s: float) -> None:
    """The next owner puts it out no shorter, and goes on counting where it was."""
    one = Ejection(EjectionConfig(after=2, base_s=30.0))
    for second, outcome in enumerate(outcomes):
        one.called(outcome, float(second))  # type: ignore[arg-type]
    now = float(len(outcomes)) + idle_s
    other = Ejection(EjectionConfig(after=2, base_s=30.0))
    other.restore(one.snapshot(now) or {}, 1000.0)
    assert other.out(1000.0) == one.out(now)
    if one.out(now):
        assert -1e-9 <= (other.until - 1000.0) - (one.until - now) < 0.002
    else:
        one.called("failure", now)
        other.called("failure", 1000.0)
        assert one.out(now) == other.out(1000.0)
        if one.out(now):
            assert one.until - now == pytest.approx(other.until - 1000.0)


def test_configurations_that_make_no_sense() -> None:
    """Are refused."""
    for make in (
        lambda: ChecksConfig(unhealthy_after=0),
        lambda: ChecksConfig(healthy_after=0),
        lambda: EjectionConfig(after=-1),
        lambda: EjectionConfig(base_s=0.0),
        lambda: EjectionConfig(base_s=50.0, max_s=40.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
