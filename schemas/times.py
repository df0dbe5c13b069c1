"""Wire times: RFC 3339 UTC with milliseconds out; RFC 3339 or epoch milliseconds in. Pure.

Inside the pipeline a time is always an `int` of epoch milliseconds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache

MAX_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last time RFC 3339 can write."""


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


@lru_cache(maxsize=256)  # records of one batch have few different milliseconds
def format_time(ms: int) -> str:
    """Epoch milliseconds to the wire form.

    >>> format_time(1_795_354_620_123)
    '2026-11-22T13:37:00.123Z'
    """
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}{rest:03d}Z"


def parse_time(value: object) -> int:
    """RFC 3339 text or epoch milliseconds to epoch milliseconds; ValueError with the reason.

    >>> parse_time("2026-11-22T14:37:00.123456+01:00")
    1795354620123
    >>> parse_time(1795354620123)
    1795354620123
    """
    if isinstance(value, bool):
        raise ValueError("must be an RFC 3339 time or epoch milliseconds, not a boolean")
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError("must be finite")
        ms = int(value)
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.upper())  # RFC 3339 allows t and z
        except ValueError:
            raise ValueError(f"is not an RFC 3339 time: {value[:40]!r}") from None
        if "T" not in value and "t" not in value and " " not in value:
            raise ValueError(f"is a date without a time: {value[:40]!r}")
        if moment.tzinfo is None:
            raise ValueError(f"has no time zone (write ...Z for UTC): {value[:40]!r}")
        delta = moment - datetime.fromtimestamp(0, UTC)
        ms = delta.days * 86_400_000 + delta.seconds * 1000 + delta.microseconds // 1000
    else:
        raise ValueError("must be an RFC 3339 time or epoch milliseconds")
    if not 0 <= ms <= MAX_MS:
        raise ValueError("must lie between 1970 and 9999")
    return ms


_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration(value: object) -> int:
    """A duration as people write it, to milliseconds; a bare number is milliseconds.

    >>> parse_duration("1m30s"), parse_duration("250ms"), parse_duration(5000)
    (90000, 250, 5000)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be a duration such as 30s, 1m30s or a number of milliseconds")
    if isinstance(value, str):
        text = value.strip().lower()
        if not text.isdecimal():
            parts = _DURATION.findall(text)
            if not parts or "".join(number + unit for number, unit in parts) != text:
                raise ValueError(f"is not a duration: {value[:40]!r} (write 500ms, 30s, 1m30s or 2h)")
            value = sum(float(number) * _UNITS_MS[unit] for number, unit in parts)
    try:
        ms = round(float(value))
    except (OverflowError, ValueError):  # infinite, not a number, or too many digits
        raise ValueError("is not a duration: too large or not a number") from None
    if ms < 0:
        raise ValueError("must not be negative")
    return ms
