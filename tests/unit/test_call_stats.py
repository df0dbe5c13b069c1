"""What is known of an agent's recent calls: what it says of its answers, and what that is worth."""

from __future__ import annotations

import pytest

from agents_io.calling.call_stats import CallStats


def test_a_failure_is_worth_nothing_and_a_call_that_was_cut_off_says_nothing() -> None:
    """Both means move alike."""
    track = CallStats(worth=lambda confidence: confidence / 2)
    track.ended("failure", 0.1, 0.0, 0.0)
    assert (track.confidence.value, track.calibrated.value) == (0.0, None), "nothing is known of what it says"
    track = CallStats(worth=lambda confidence: confidence / 2)
    track.ended("success", 0.1, 0.8, 0.0)
    track.ended("failure", 0.1, 0.0, 1.0)
    track.ended("neutral", 0.1, 0.0, 2.0)
    assert track.confidence.value == pytest.approx(0.64)
    assert track.calibrated.value == pytest.approx(0.32)


def test_a_calibration_that_is_withdrawn_is_used_no_more() -> None:
    """And begins anew when there is one again."""
    known: list[float | None] = [0.2, None, 0.6]
    track = CallStats(worth=lambda confidence: known.pop(0))
    seen = []
    for now in range(3):
        track.ended("success", 0.1, 0.9, float(now))
        seen.append(track.calibrated.value)
    assert seen == [0.2, None, 0.6]
