"""Which task ids were answered lately."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.rules.dedup_window import CHUNK_IDS, DIGEST_BYTES, Chunk, DedupWindow, digest

HOUR_MS = 3_600_000


def ids(first: int, count: int) -> list[bytes]:
    """Digests of numbered tasks."""
    return [digest("a", f"t{n}") for n in range(first, first + count)]


def test_an_id_is_known_by_scope_and_id_together() -> None:
    """The same id of another agent is another task; `ab`+`c` is not `a`+`bc`."""
    window = DedupWindow(HOUR_MS, 1000)
    window.add(digest("ab", "c"), 0)
    assert window.has(digest("ab", "c"))
    assert not any(window.has(digest(scope, name)) for scope, name in (("a", "bc"), ("", "c"), ("ab", ""), ("x", "c")))


def test_the_newest_are_kept_and_memory_is_bounded() -> None:
    """At least as many as asked for, at most a third more."""
    window = DedupWindow(HOUR_MS, 1000)
    for number, name in enumerate(ids(0, 10_000)):
        window.add(name, number)
    assert all(window.has(name) for name in ids(9000, 1000))
    assert not any(window.has(name) for name in ids(0, 8000))
    assert window.count <= 1334


def test_ids_are_forgotten_after_the_window_and_not_before() -> None:
    """One every ten minutes, remembered for an hour, forgotten after an hour and a half."""
    window = DedupWindow(HOUR_MS, 1000)
    for number, name in enumerate(ids(0, 100)):
        window.add(name, number * 600_000)
        assert all(window.has(name) for name in ids(max(0, number - 5), min(number, 5)))
    assert not any(window.has(name) for name in ids(0, 90))


@given(
    batches=st.lists(st.integers(0, 3 * CHUNK_IDS), min_size=1, max_size=20),
    moves=st.sets(st.integers(0, 19)),
)
@settings(max_examples=50, deadline=None)
def test_what_was_flushed_is_known_to_the_next_owner(batches: list[int], moves: set[int]) -> None:
    """A ring of slots, each overwritten by its newer chunk, moves to a new owner at any moment; nothing flushed is lost."""
    window = DedupWindow(HOUR_MS, 2000)
    ring: dict[int, tuple[Chunk, int]] = {}
    total = 0
    for number, count in enumerate(batches):
        for name in ids(total, count):
            window.add(name, number)
        total += count
        if (chunk := window.flush()) is not None:
            ring[chunk.slot or 0] = (chunk, number)
        if number in moves:
            window = DedupWindow(HOUR_MS, 2000)
            window.restore(ring.values())
    assert all(window.has(name) for name in ids(max(0, total - 2000), min(total, 2000)))
    assert not any(window.has(name) for name in ids(total, 10))
    assert len(ring) <= window.slots


def test_nothing_new_is_nothing_to_write() -> None:
    """And a small chunk is written again with what follows, in its slot."""
    window = DedupWindow(HOUR_MS, 1000)
    assert window.flush() is None
    window.add(*ids(0, 1), 0)
    first = window.flush()
    assert window.flush() is None
    window.add(*ids(1, 1), 0)
    second = window.flush()
    assert first is not None
    assert second is not None
    assert first.sequence == second.sequence
    assert second.digests == b"".join(ids(0, 2))


def test_an_id_found_across_two_neighbours_is_not_there() -> None:
    """Digests lie side by side without a mark between them."""
    window = DedupWindow(HOUR_MS, 1000)
    first, second = bytes(1) + bytes(range(1, 10)), bytes(1) + bytes(range(11, 20))
    window.add(first, 0)
    window.add(second, 0)
    assert window.has(first)
    assert window.has(second)
    assert len(first) == DIGEST_BYTES
    for shift in range(1, 9):
        assert not window.has(bytes(1) + (first[1:] + second[1:])[shift : shift + 9])


@pytest.mark.parametrize("later_h", [24, 25, 720, 8760])
def test_in_a_quiet_partition_an_id_is_forgotten_too(later_h: int) -> None:
    """Nothing else is added that would push it out: its time alone ends it. One millisecond earlier it is known."""
    window = DedupWindow(24 * HOUR_MS, 250_000)
    [name] = ids(0, 1)
    window.add(name, 0)
    assert window.has(name, 24 * HOUR_MS - 1)
    assert not window.has(name, later_h * HOUR_MS)


@pytest.mark.parametrize("each", [1, 9, 63, 64, 65])
def test_moves_alone_push_no_ids_out(each: int) -> None:
    """Each owner continues the newest row: with a row for each of them the ring would be full long before the window is."""
    ring: dict[int, tuple[Chunk, int]] = {}
    total = 0
    while total < 2500:
        window = DedupWindow(HOUR_MS, 1000)
        window.restore(ring.values())
        assert all(window.has(name) for name in ids(max(0, total - 1000), min(total, 1000)))
        for name in ids(total, each):
            window.add(name, 0)
        total += each
        chunk = window.flush()
        assert chunk is not None
        ring[chunk.slot or 0] = chunk, 0
    assert len(ring) <= window.slots


@pytest.mark.parametrize("moves", [None, 1, 5, 7], ids=str)
@pytest.mark.parametrize("parts", [4, 8])
def test_slow_traffic_keeps_no_id_for_much_longer_than_the_window(moves: int | None, parts: int) -> None:
    """An id an hour for five days: a chunk takes days to fill, and an id in it must not become as young as the newest."""
    window_h = 24
    window = DedupWindow(window_h * HOUR_MS, 1000, parts)
    ring: dict[int, tuple[Chunk, int]] = {}
    names = ids(0, 120)
    for hour, name in enumerate(names):
        now_ms = hour * HOUR_MS
        window.add(name, now_ms)
        chunk = window.flush()
        assert chunk is not None
        ring[chunk.slot or 0] = (chunk, now_ms)
        if moves is not None and hour % moves == 0:
            window = DedupWindow(window_h * HOUR_MS, 1000, parts)
            window.restore(ring.values())
        known = [window.has(old, now_ms) for old in names[: hour + 1]]
        assert all(known[max(0, hour - window_h + 1) :])
        assert not any(known[: max(0, hour - round(window_h * (1 + 2 / parts)))])
    assert len(ring) <= window.slots


@pytest.mark.parametrize(("before", "after"), [(640, 1280), (640, 700), (1280, 640), (1280, 200), (640, 640)])
@pytest.mark.parametrize("written", range(0, 60, 3))
def test_another_number_of_ids_costs_none_of_the_newest(before: int, after: int, written: int) -> None:
    """The ring has another size then. The oldest chunks are overwritten first all the same, wherever it was."""
    ring: dict[int, tuple[Chunk, int]] = {}
    total = 0
    for most, chunks in ((before, written), (after, 1), (after, 7), (after, 40), (before, 9)):
        window = DedupWindow(HOUR_MS, most)
        window.restore(ring.values())
        smallest = min(before, after)
        assert all(window.has(name) for name in ids(max(0, total - smallest), min(total, smallest)))
        for _ in range(chunks):
            for name in ids(total, CHUNK_IDS):
                window.add(name, total)
            total += CHUNK_IDS
            chunk = window.flush()
            assert chunk is not None
            ring[chunk.slot or 0] = (chunk, total)
