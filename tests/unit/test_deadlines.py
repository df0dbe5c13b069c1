"""When a task must have ended: the earliest of what bounds the whole of it; the timeout of an attempt does not."""

from __future__ import annotations

from itertools import product

import pytest

from schemas.codec import Rejected
from schemas.messages import TaskMetadata
from streams.rules.dispatch.deadlines import deadline_ms

RECORD_MS, DAY_MS = 1_000_000, 86_400_000


@pytest.mark.parametrize(
    ("deadline", "expires_in", "expiry", "max_wait"),
    list(product((None, 1_500_000, 900_000), (None, 250_000), (None, "1970-01-01T00:20:00Z"), (0, DAY_MS, 100_000))),
)
def test_the_earliest_bound_holds(
    deadline: int | None, expires_in: int | None, expiry: str | None, max_wait: int
) -> None:
    """Those that count from the record's timestamp, and those that say a time; also one that has passed already."""
    metadata = TaskMetadata(deadline=deadline, expires_in=expires_in, timeout=5)
    bounds = [
        deadline,
        None if expires_in is None else RECORD_MS + expires_in,
        None if expiry is None else 1_200_000,
        RECORD_MS + max_wait if max_wait else None,
    ]
    expected = min((bound for bound in bounds if bound is not None), default=None)
    attributes = {} if expiry is None else {"expirytime": expiry}
    assert deadline_ms(metadata, attributes, RECORD_MS, max_wait) == expected


@pytest.mark.parametrize(
    "text", ["1970-01-01T00:00:05Z", "1970-01-01T01:00:05+01:00", "1970-01-01T00:00:05.000Z", "5000"]
)
def test_a_cloud_events_time_in_every_form(text: str) -> None:
    """RFC 3339 as the specification has it, and epoch ms as our own messages may."""
    assert deadline_ms(TaskMetadata(), {"expirytime": text}, 0, 0) == 5000


@pytest.mark.parametrize("text", ["", "soon", "1970-13-01T00:00:00Z", "-5", "\u0665", "1e3", "9" * 40])
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    """A bad attribute costs the record alone, with the reason."""
    with pytest.raises(Rejected, match="expirytime"):
        deadline_ms(TaskMetadata(), {"expirytime": text}, 0, DAY_MS)
