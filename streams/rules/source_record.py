"""A record as it was read, and the pipeline's own headers on it. Pure.

Headers named `parallax-...` are written by workers only: a record that a worker wrote carries the history of its task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

AGENT_HEADER = "parallax-agent"
EXPIRES_HEADER = "parallax-expires"
HOPS_HEADER = "parallax-hops"
ORIGIN_HEADER = "parallax-origin"
ATTEMPTS_HEADER = "parallax-attempts"
TASK_HEADER = "parallax-task"
MOVED_HEADER = "parallax-moved"
SPAN_HEADER = "parallax-span"
JUDGED_HEADER = "parallax-judged"
ORDER_HEADER = "parallax-order"
NOT_BEFORE_HEADER = "parallax-not-before"
CANCELLED_HEADER = "parallax-cancelled"
STEP_HEADER = "parallax-step"
FIRED_HEADER = "parallax-fired"
MAX_DIGITS = 18
"""Digits of an integer in a header: users may write any, and `int` raises an error for several thousand."""
INTERNAL_SOURCES = ("dispatch", "parked")
"""Topics that only workers write: their headers are trusted."""
GO_ALONG = (JUDGED_HEADER, CANCELLED_HEADER, NOT_BEFORE_HEADER)
"""Headers of a record on such a topic that the next record of its task keeps."""
OWN_HEADERS = frozenset(
    (
        AGENT_HEADER,
        EXPIRES_HEADER,
        HOPS_HEADER,
        ORIGIN_HEADER,
        ATTEMPTS_HEADER,
        TASK_HEADER,
        MOVED_HEADER,
        SPAN_HEADER,
        JUDGED_HEADER,
        ORDER_HEADER,
        NOT_BEFORE_HEADER,
        CANCELLED_HEADER,
        STEP_HEADER,
        FIRED_HEADER,
    )
)


@dataclass(slots=True, frozen=True)
class SourceRecord:
    """A record as it was read: short topic name, position, bytes, headers, and its timestamp (epoch ms)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int = 0


def from_coordinator(headers: Iterable[tuple[str, bytes]]) -> bool:
    """Whether a plan coordinator wrote the record, by its CloudEvents source. This detects mistakes, not forgeries: a
    producer with the right to write to `tasks` may write any header.

    >>> from_coordinator([("ce_source", b"/parallax/app/plans")]), from_coordinator([("ce_source", b"/me")]), from_coordinator([])
    (True, False, False)
    """
    found = b""
    for key, value in headers:
        if key == "ce_source":
            found = value or b""
    return found.startswith(b"/parallax/") and found.endswith(b"/plans")


def own_header(headers: Iterable[tuple[str, bytes]], name: str) -> int | None:
    """An integer header the pipeline wrote, or None.

    >>> own_header([("parallax-hops", b"3")], "parallax-hops"), own_header([("parallax-hops", b"9" * 5000)], "parallax-hops")
    (3, None)
    """
    for key, value in headers:
        if key == name and value and value.isdigit() and len(value) <= MAX_DIGITS:
            return int(value)
    return None
