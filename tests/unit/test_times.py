"""Wire times and durations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.times import MAX_MS, format_time, parse_duration, parse_time


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-22T13:37:00.123Z", 1_795_354_620_123),
        ("2026-11-22T14:37:00.123+01:00", 1_795_354_620_123),
        ("2026-11-22t13:37:00.1239z", 1_795_354_620_123),
        ("9999-12-31T23:59:59.999Z", MAX_MS),
    ],
)
def test_rfc3339_is_read(text: str, ms: int) -> None:
    """Any offset, any precision (cut to milliseconds), upper or lower case."""
    assert parse_time(text) == ms


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("yesterday", "is not an RFC 3339 time"),
        ("2026-11-22", "is a date without a time"),
        ("2026-11-22T13:37:00", "has no time zone"),
        ("2026-02-30T00:00:00Z", "is not an RFC 3339 time"),
        ("1969-12-31T23:59:59Z", "between 1970 and 9999"),
        (-1, "between 1970 and 9999"),
        (MAX_MS + 1, "between 1970 and 9999"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (True, "not a boolean"),
        (None, "RFC 3339"),
        ([], "RFC 3339"),
    ],
)
def test_what_is_no_time_is_refused_with_a_reason(value: object, reason: str) -> None:
    """Each fault has its own sentence."""
    with pytest.raises(ValueError, match=reason):
        parse_time(value)


@given(st.integers(0, MAX_MS))
def test_every_time_survives_the_wire(ms: int) -> None:
    """format then parse is the identity on all representable milliseconds."""
    assert parse_time(format_time(ms)) == ms
    assert parse_time(ms) == ms


@given(st.lists(st.integers(0, MAX_MS), min_size=2, max_size=5))
def test_written_times_sort_as_they_happened(moments: list[int]) -> None:
    """The text form can be compared as text."""
    assert [parse_time(text) for text in sorted(map(format_time, moments))] == sorted(moments)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("250ms", 250), ("30s", 30_000), ("1m30s", 90_000), ("1.5h", 5_400_000), (" 2D ", 172_800_000), ("7", 7)],
)
def test_durations_as_people_write_them(text: str, ms: int) -> None:
    """Units may be combined; a bare number is milliseconds."""
    assert parse_duration(text) == ms


@pytest.mark.parametrize("value", ["", "s", "5x", "1 h", "-5s", "1s!", "\u0663s", None, True, [], -1])
def test_what_is_no_duration_is_refused(value: object) -> None:
    """No unit, unknown unit, sign, gaps, foreign digits with a unit, other types."""
    with pytest.raises(ValueError, match=r"duration|negative"):
        parse_duration(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1" * 400 + "h", 10**400])
def test_a_duration_without_bounds_is_a_value_error(value: object) -> None:
    """Never an OverflowError: settings turn only ValueError into a sentence."""
    with pytest.raises(ValueError):  # noqa: PT011 - the sentence is checked elsewhere
        parse_duration(value)


@given(st.integers(0, 10**12))
def test_milliseconds_are_taken_as_they_are(ms: int) -> None:
    """Numbers, their text and their text with a unit say the same."""
    assert parse_duration(ms) == parse_duration(str(ms)) == parse_duration(f"{ms}ms") == ms
