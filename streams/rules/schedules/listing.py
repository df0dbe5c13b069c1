"""Lists the schedules on their topic. Pure.

In: its records, partition by partition. Out: by id the newest valid schedules, and why others are invalid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.codec import Rejected, decode_json, header, validate
from schemas.messages import Schedule
from schemas.wire_format import key_text
from streams.rules.schedules.times import next_time
from streams.rules.source_record import MOVED_HEADER


class Listing:
    """`found`: schedules by id. `refused`: why the newest record of an id is invalid."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}

    def add(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """Add the next record of a partition."""
        if value is None and header(headers, MOVED_HEADER) is not None:
            return  # a worker's mark that the record before it was sent on to the partition of its id
        name = key_text(key, headers)
        self.found.pop(name, None)
        self.refused.pop(name, None)
        if value is None:
            return
        try:
            data = decode_json(value, headers).data
            schedule = validate(Schedule, data)
            next_time(schedule)
            if schedule.id != name:
                raise Rejected("validate", "key: must be the schedule's id")
            self.found[name] = data
        except Rejected as rejected:
            self.refused[name] = rejected.reason
