"""The deadline of a task. Pure.

In: the task and its CloudEvent, the timestamp of its record, the setting `dispatch.max_wait`. Out: a deadline, or none.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.codec import Rejected
from schemas.messages import TaskMetadata
from schemas.times import format_time, parse_time


def deadline_ms(metadata: TaskMetadata, attributes: Mapping[str, str], record_ms: int, max_wait_ms: int) -> int | None:
    """The earliest of a task's deadlines, epoch ms; None without any.

    These are `metadata.deadline`, `metadata.expiresIn` from the record's timestamp on, the CloudEvents attribute
    `expirytime`, and `max_wait_ms` (0: none) from the record's timestamp or `metadata.notBefore` on. Raises `Rejected`
    for an invalid time.

    >>> deadline_ms(TaskMetadata(), {}, 1000, 0), deadline_ms(TaskMetadata(), {}, 1000, 500)
    (None, 1500)
    >>> deadline_ms(TaskMetadata(expires_in=200), {"expirytime": "1970-01-01T00:00:01.100Z"}, 1000, 500)
    1100
    >>> deadline_ms(TaskMetadata(not_before=9000), {}, 1000, 500)
    9500
    """
    bounds = []
    if max_wait_ms > 0:
        bounds.append((record_ms if metadata.not_before is None else max(record_ms, metadata.not_before)) + max_wait_ms)
    if metadata.deadline is not None:
        bounds.append(metadata.deadline)
    if metadata.expires_in is not None:
        bounds.append(record_ms + metadata.expires_in)
    if (expiry := attributes.get("expirytime")) is not None:
        try:
            bounds.append(parse_time(int(expiry) if expiry.isascii() and expiry.isdigit() else expiry))
        except ValueError as error:
            raise Rejected("validate", f"expirytime: {error}") from None
    return min(bounds, default=None)


def never_called(not_before_ms: int, deadline_ms: int) -> str:
    """The error text of a task whose deadline is not after its earliest time.

    >>> never_called(2000, 1000)
    'metadata.notBefore: 1970-01-01T00:00:02.000Z is not before the deadline 1970-01-01T00:00:01.000Z'
    """
    return f"metadata.notBefore: {format_time(not_before_ms)} is not before the deadline {format_time(deadline_ms)}"
