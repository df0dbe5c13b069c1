"""Backoff and Retry-After."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.calling.rules.retry import RetryConfig, clamp_retry_after, delay_s
from agents_io.rules.waits import parse_retry_after

EXACT = RetryConfig(jitter=False)
RNG = random.Random(7)


def test_without_jitter_delays_double_up_to_the_cap() -> None:
    """1, 2, 4, 8, 16, 30, 30 ..."""
    assert [delay_s(attempt, EXACT, RNG) for attempt in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert delay_s(100_000, EXACT, RNG) == 30
    assert delay_s(900, RetryConfig(jitter=False, multiplier=100.0), RNG) == 30


@given(attempt=st.integers(0, 50), seed=st.integers(0, 1000))
def test_jitter_stays_between_half_and_the_whole(attempt: int, seed: int) -> None:
    """Never sooner than half, never later than the exact delay."""
    exact = delay_s(attempt, EXACT, RNG)
    assert exact / 2 <= delay_s(attempt, RetryConfig(), random.Random(seed)) <= exact


def test_jitter_spreads() -> None:
    """Tasks that failed together do not come back together."""
    delays = {delay_s(0, RetryConfig(), RNG) for _ in range(100)}
    assert max(delays) - min(delays) > 0.3


def test_retry_after_is_obeyed_when_larger_and_clamped() -> None:
    """An hour becomes the configured most."""
    assert delay_s(2, EXACT, RNG, 2.0) == 4
    assert delay_s(0, EXACT, RNG, 10.0) == 10
    assert delay_s(0, EXACT, RNG, 3600.0) == 300
    assert delay_s(0, EXACT, RNG, float("inf")) == 300
    assert delay_s(0, EXACT, RNG, -3600.0) == 1
    assert delay_s(0, EXACT, RNG, float("nan")) == 1
    assert clamp_retry_after(None, EXACT) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        (None, None),
        ("", None),
        ("-5", None),
        ("1e3", None),
        ("NaN", None),
        ("inf", None),
        ("soon", None),
        ("12 seconds", None),
        ("\u0661\u0662", None),
        ("9" * 65, None),
        ("Sun, 99 Nov 1994 08:49:47 GMT", None),
    ],
)
def test_retry_after_header(text: str | None, seconds: float | None) -> None:
    """Seconds or a date that lies ahead; anything else is as if it were not there."""
    assert parse_retry_after(text, 784_111_777.0) == seconds


@given(st.text(max_size=80))
def test_no_header_makes_it_raise(text: str) -> None:
    """Agents send what they like."""
    found = parse_retry_after(text, 1e9)
    assert found is None or found >= 0


@pytest.mark.parametrize("bad", [{"multiplier": 0.5}, {"initial_delay_s": -1.0}, {"max_delay_s": float("nan")}])
def test_config_without_sense_is_refused(bad: dict[str, float]) -> None:
    """At once."""
    with pytest.raises(ValueError, match="at least"):
        RetryConfig(**bad)  # type: ignore[arg-type]
