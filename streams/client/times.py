"""Times and durations as users write them, in wire form. Pure: `now_ms` is passed in.

Durations: seconds as a number, text such as "30s" or "1h", or a `timedelta`. Moments: an aware `datetime`, RFC 3339
text, or epoch seconds as `time.time()` returns them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isfinite

from schemas.times import format_time, parse_duration, parse_time
from streams.client.errors import InvalidTask

Duration = float | str | timedelta
Moment = datetime | str | float
Since = datetime | str | float | timedelta

_SECONDS_END = 100_000_000_000
"""Epoch seconds of the year 5138: a larger number is in milliseconds by mistake."""


def duration_ms(value: Duration, name: str) -> int:
    """A duration in milliseconds. Raises `InvalidTask` naming the argument.

    >>> duration_ms(1.5, "timeout"), duration_ms("2s", "timeout"), duration_ms(timedelta(minutes=1), "timeout")
    (1500, 2000, 60000)
    """
    try:
        if isinstance(value, timedelta):
            return parse_duration(value.total_seconds() * 1000)
        if isinstance(value, str):
            return parse_duration(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise ValueError('must be seconds, text such as "30s", or a timedelta')
        return parse_duration(value * 1000)
    except ValueError as error:
        raise InvalidTask(f"{name}: {error}") from None


def seconds(value: Duration, name: str) -> float:
    """A duration in seconds. Raises `InvalidTask`."""
    return duration_ms(value, name) / 1000


def moment_ms(value: Moment, name: str) -> int:
    """A moment in epoch milliseconds. Raises `InvalidTask` naming the argument.

    >>> moment_ms(1_795_354_620.5, "deadline"), moment_ms("2026-11-22T13:37:00Z", "deadline")
    (1795354620500, 1795354620000)
    """
    try:
        if isinstance(value, datetime):
            return parse_time(value.isoformat())
        if isinstance(value, str):
            return parse_time(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise ValueError("must be a datetime with a time zone, RFC 3339 text, or epoch seconds")
        if value > _SECONDS_END:
            raise ValueError(f"{value:.0f} is too large for epoch seconds; divide milliseconds by 1000")
        return parse_time(value * 1000)
    except ValueError as error:
        raise InvalidTask(f"{name}: {error}") from None


def moment_text(value: Moment, name: str) -> str:
    """A moment in its wire form. Raises `InvalidTask` naming the argument."""
    return format_time(moment_ms(value, name))


def since_ms(value: Since, now_ms: int) -> int:
    """Where a subscription begins: a moment, or a duration ("1h", a timedelta) before now. Epoch milliseconds.

    >>> since_ms("1m", 100_000), since_ms(timedelta(seconds=1), 100_000), since_ms("1970-01-01T00:00:01Z", 0)
    (40000, 99000, 1000)
    """
    if isinstance(value, timedelta):
        return max(0, now_ms - duration_ms(value, "since"))
    if isinstance(value, str):
        try:
            return max(0, now_ms - parse_duration(value))
        except ValueError:
            pass  # not a duration, hence a moment
    try:
        return moment_ms(value, "since")
    except InvalidTask as error:
        if isinstance(value, str) and not value[:4].isdigit():
            raise InvalidTask(f"since: is neither a duration nor an RFC 3339 time: {value[:40]!r}") from None
        raise error from None
