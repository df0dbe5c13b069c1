"""How long an answer asks to wait before the next call, in every spelling in use. Pure.

In: headers and the start of the body of a response other than 2xx; the time. Out: seconds, or None. In this order:

    Retry-After                                   RFC 9110: seconds or a date
    retry-after-ms                                milliseconds, also with a fraction (OpenAI, Azure)
    x-ratelimit-reset-*, ratelimit-reset,
    anthropic-ratelimit-*-reset                   spans (`6m0s`), seconds, an epoch in seconds or milliseconds, RFC 3339; those
                                                  of limits that are used up, else of those that do not say what remains
    the body                                      google.rpc.RetryInfo, `estimated_time`, "try again in 2.5s"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_MAX_HEADER = 64
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_RESET = re.compile(r"(?:x-)?ratelimit-reset(?:-after)?(?:-(.+))?|(?:anthropic-|x-)?ratelimit-(.+)-reset", re.ASCII)
_BODY = (
    re.compile(rb'"retryDelay"\s*:\s*"([0-9.]{1,12}(?:ms|s))"'),
    re.compile(rb'"estimated_time"\s*:\s*([0-9.]{1,12})'),
    re.compile(rb"(?:try again|retry) in ([0-9.]{1,9}(?:ms|s|m|h)(?:[0-9.]{1,9}(?:ms|s))?)"),
)
_MAX_DATE = 64
_SAME_CLOCK_S = 2.0
_EPOCH_S, _EPOCH_MS = 1e9, 1e12


def wait_of(headers: Mapping[str, str], body: bytes, now_epoch_s: float) -> float | None:
    """Seconds to wait. `headers`: by lower-case name. Times are relative to the server's `Date`, where clocks differ.

    >>> wait_of({"retry-after-ms": "2200.5"}, b"", 0.0), wait_of({}, b'{"details":[{"retryDelay": "2s"}]}', 0.0)
    (2.2005, 2.0)
    >>> at = {"date": "Thu, 01 Jan 1970 00:01:00 GMT", "retry-after": "Thu, 01 Jan 1970 00:01:30 GMT"}
    >>> wait_of(at, b"", 500.0), wait_of(at, b"", 60.5)
    (30.0, 29.5)
    """
    now_epoch_s = _servers_now(headers.get("date"), now_epoch_s)
    exact = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(exact):
        return float(exact) / 1000
    asked_s = parse_retry_after(headers.get("retry-after"), now_epoch_s)
    if asked_s is None:
        asked_s = reset_s(headers, now_epoch_s)
    return _of_body(body) if asked_s is None else asked_s


def _servers_now(date: str | None, now_epoch_s: float) -> float:
    """The server's clock, which has whole seconds only; ours if the two agree."""
    if date is None or len(date) > _MAX_DATE:
        return now_epoch_s
    try:
        when = parsedate_to_datetime(date.strip())
        stated = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return now_epoch_s
    return now_epoch_s if abs(stated - now_epoch_s) <= _SAME_CLOCK_S else stated


def reset_s(headers: Mapping[str, str], now_epoch_s: float = 0.0) -> float | None:
    """Seconds until the limits that are used up reset.

    >>> reset_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 0.0)
    360.0
    >>> reset_s({"x-ratelimit-remaining-tokens": "17", "x-ratelimit-reset-tokens": "20ms"}, 0.0) is None
    True
    """
    waits: list[float] = []
    unsaid: list[float] = []
    for name, text in headers.items():
        low = name.lower()
        if "ratelimit" not in low or (match := _RESET.fullmatch(low)) is None:
            continue
        wait_s = _until(text, now_epoch_s)
        if wait_s is None:
            continue
        left = _remaining(headers, match[1] or match[2])
        if left is None:
            unsaid.append(wait_s)
        elif left == 0:
            waits.append(wait_s)
    return max(waits or unsaid, default=None)


def _remaining(headers: Mapping[str, str], kind: str | None) -> float | None:
    tail = f"-{kind}" if kind else ""
    names = [f"x-ratelimit-remaining{tail}", f"ratelimit-remaining{tail}"]
    names += [f"anthropic-ratelimit-{kind}-remaining", f"x-ratelimit-{kind}-remaining"] if kind else []
    found = next((headers[name].strip() for name in names if name in headers), "")
    return float(found) if _NUMBER.fullmatch(found) else None


def _until(text: str, now_epoch_s: float) -> float | None:
    """Seconds, from a span or from the moment it ends."""
    text = text.strip()
    if (span := span_s(text)) is not None:
        if span >= _EPOCH_MS:
            span = span / 1000
        return max(0.0, span - now_epoch_s) if span >= _EPOCH_S else span
    if len(text) > 40 or "T" not in text:
        return None
    try:
        wait_s = datetime.fromisoformat(text).timestamp() - now_epoch_s
    except (ValueError, OverflowError):
        return None
    return max(0.0, wait_s) if isfinite(wait_s) else None


def span_s(text: str) -> float | None:
    """A span such as `1s`, `6m0s` or `20ms` in seconds; a bare number is seconds; None for other text.

    >>> span_s("1m2.5s"), span_s("7"), span_s("soon")
    (62.5, 7.0, None)
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text or len(text) > 64 or _SPAN.sub("", text):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _SPAN.findall(text))


def _of_body(body: bytes) -> float | None:
    for pattern in _BODY:
        if (match := pattern.search(body[:4096])) is not None:
            return span_s(match[1].decode("ascii"))
    return None


def parse_retry_after(text: str | None, now_epoch_s: float) -> float | None:
    """Seconds from a Retry-After header: delta-seconds or an HTTP-date (RFC 9110, 10.2.3). None for other text.

    >>> parse_retry_after("120", 0.0), parse_retry_after("Thu, 01 Jan 1970 00:00:10 GMT", 4.0)
    (120.0, 6.0)
    >>> parse_retry_after("-5", 0.0), parse_retry_after("soon", 0.0)
    (None, None)
    """
    if text is None or len(text) > _MAX_HEADER:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now_epoch_s
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return seconds if seconds >= 0 and isfinite(seconds) else None
