"""THE table of the headers that name a dead letter's origin and the reason. Pure.

`streams/rules/records.py` writes them; the AsyncAPI document and its example are made from them.
`streams/rules/broker/dead_letters.py` reads them for the commands and the live page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

OMITTED_HEADER = "parallax.dlq.omitted_bytes"
OMITTED = "size of the value that was too large to be kept; the record's own is null"
"""Added to the others when the dead letter is sent without its value."""


class Rejection(NamedTuple):
    """A rejected record. `topic`: full name; `group`: the consumer group that read it; `time`: RFC 3339."""

    topic: str
    partition: int
    offset: int
    group: str
    stage: str
    reason: str
    time: str


class DlqHeader(NamedTuple):
    """One header: its name, its meaning, and its text."""

    name: str
    about: str
    text: Callable[[Rejection], str]


DLQ_HEADERS = (
    DlqHeader("__dlq.errors.topic", "the topic it was read from", lambda r: r.topic),
    DlqHeader("__dlq.errors.partition", "its partition there", lambda r: str(r.partition)),
    DlqHeader("__dlq.errors.offset", "its offset there", lambda r: str(r.offset)),
    DlqHeader("__dlq.errors.group", "the consumer group that rejected it", lambda r: r.group),
    DlqHeader("__dlq.errors.delivery.count", "how often it was delivered", lambda r: "1"),
    DlqHeader("__dlq.errors.message", "why, naming the field", lambda r: r.reason),
    DlqHeader("parallax.dlq.exception", "the kind of error", lambda r: "Rejected"),
    DlqHeader(
        "parallax.dlq.stage",
        "decode (bytes, JSON, envelope), validate (fields) or emit (too large to be passed on)",
        lambda r: r.stage,
    ),
    DlqHeader("parallax.dlq.time", "when, RFC 3339", lambda r: r.time),
)


def dlq_headers(rejection: Rejection) -> dict[str, str]:
    """Names and texts, in the order in which they are written.

    >>> found = dlq_headers(Rejection("parallax.tasks", 0, 42, "g", "decode", "is empty", "2026-11-29T06:13:17.529Z"))
    >>> found["__dlq.errors.topic"], found["__dlq.errors.message"]
    ('parallax.tasks', 'is empty')
    """
    return {header.name: header.text(rejection) for header in DLQ_HEADERS}
