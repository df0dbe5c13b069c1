"""Which part of a log was not counted: the log that was counted, one made anew, one restored from a copy."""

from __future__ import annotations

import doctest
import random

import pytest

from streams.rules.windows import log_identity
from streams.rules.windows.log_identity import Mark, checked_marks, resume_at


def decided(log: dict[int, int], counted: list[Mark]) -> int | None:
    """`log`: offset -> record time, what lies there now."""
    begin, end = (min(log), max(log) + 1) if log else (0, 0)
    found = {mark.offset: log.get(mark.offset) for mark in checked_marks(counted, begin, end)}
    newest_ms = max(mark.stamp_ms for mark in counted)
    later = next((offset for offset, stamp in sorted(log.items()) if stamp > newest_ms), None)
    return resume_at(counted, found, begin, end, later)


def log_of(count: int, begin: int = 0, from_ms: int = 1000) -> dict[int, int]:
    return {begin + n: from_ms + n * 10 for n in range(count)}


COUNTED = [Mark(99, 1990), Mark(97, 1970), Mark(41, 1410), Mark(3, 1030)]


def test_doctests() -> None:
    """The examples hold."""
    assert doctest.testmod(log_identity).failed == 0


@pytest.mark.parametrize("more", [0, 1, 500])
@pytest.mark.parametrize("gone", [0, 50, 100])
def test_the_log_that_was_counted_is_read_on_as_it_is(more: int, gone: int) -> None:
    """Whatever has come since, and whatever retention took."""
    log = {offset: stamp for offset, stamp in log_of(100 + more).items() if offset >= gone}
    if log:
        assert decided(log, COUNTED) is None


@pytest.mark.parametrize("count", [1, 40, 99, 100, 5000])
def test_a_log_made_anew_is_read_from_its_beginning(count: int) -> None:
    """Shorter than what was counted, as long, longer."""
    assert decided(log_of(count, from_ms=50_000), COUNTED) == 0


@pytest.mark.parametrize("kept", [4, 42, 60, 98, 99])
@pytest.mark.parametrize("more", [0, 1, 30, 500])
def test_a_log_restored_from_a_copy_is_read_on_where_its_new_part_begins(kept: int, more: int) -> None:
    """Its first records are those that were counted; what was written since is newer than all of them."""
    log = log_of(kept) | log_of(more, begin=kept, from_ms=90_000)
    assert decided(log, COUNTED) == kept


def test_no_record_is_counted_twice_or_left_out_wherever_the_copy_ends() -> None:
    """Drawn at random."""
    rng = random.Random(1)
    for _ in range(300):
        old = {n: 1000 + n * 10 + rng.randrange(5) for n in range(rng.randrange(2, 200))}
        counted = [
            Mark(o, old[o]) for o in {max(old), *rng.sample(sorted(old), rng.randrange(1, min(len(old), 20) + 1))}
        ]
        kept = rng.randrange(0, len(old))
        log = {o: s for o, s in old.items() if o < kept} | log_of(rng.randrange(1, 300), begin=kept, from_ms=900_000)
        assert decided(log, counted) == (kept if any(mark.offset < kept for mark in counted) else 0) or kept == 0
