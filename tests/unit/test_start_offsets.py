"""Where a partition begins: every way in which a group's offset can be wrong."""

from __future__ import annotations

import pytest

from streams.rules.engine import offset_map
from streams.rules.engine.start_offsets import NOT_COMMITTED, KeptOffset, LogNow, Start, lost_its_end, start_offset

ID, OTHER = "aa", "bb"


def start(
    committed: tuple[int, str], kept: KeptOffset | None, log: LogNow, exact_ends: bool = True
) -> tuple[int, str, bool]:
    """Offset, map and whether the group has that, of `tasks` 0."""
    found: Start = start_offset("tasks", 0, committed, kept, log, exact_ends)
    assert (found.why is None) == (found.committed or found.fresh)
    return found.offset, found.map, found.committed


def text(head: int, *runs: tuple[int, int]) -> str:
    """An offset map."""
    return offset_map.encode("tasks", 0, head, runs)


KEPT = KeptOffset(40, text(40, (42, 44)), ID, epoch=3, checked=40)
SAME = LogNow(5, 60, ID, 3)
CASES: dict[str, tuple[tuple[int, str], KeptOffset | None, LogNow, tuple[int, str, bool]]] = {
    "as it was": ((40, KEPT.map), KEPT, SAME, (40, KEPT.map, True)),
    "nothing kept": ((40, "x"), None, SAME, (40, "x", True)),
    "never committed": (NOT_COMMITTED, None, SAME, (5, "", False)),
    "expired": (NOT_COMMITTED, KEPT, SAME, (40, KEPT.map, False)),
    "set back": ((7, ""), KEPT, SAME, (40, KEPT.map, False)),
    "set forward": ((50, ""), KEPT, SAME, (50, "", True)),
    "made anew, offsets gone": (NOT_COMMITTED, KEPT, LogNow(0, 60, OTHER, 0), (0, "", False)),
    "made anew, offsets there": ((40, ""), KEPT, LogNow(0, 60, OTHER, 0), (0, "", False)),
    "made anew, shorter": ((40, ""), KEPT, LogNow(0, 9, OTHER, 0), (0, "", False)),
    "expired, and the topic may be another one": (NOT_COMMITTED, KEPT._replace(topic_id=""), SAME, (5, "", False)),
    "expired, and brokers do not say": (NOT_COMMITTED, KEPT, LogNow(5, 60), (5, "", False)),
    "set back, and brokers do not say": ((7, ""), KEPT, LogNow(5, 60), (40, KEPT.map, False)),
    "lost its end": ((40, KEPT.map), KEPT, LogNow(5, 30, ID, 4, cut=20), (20, "", False)),
    "lost its end and grew beyond it": ((40, KEPT.map), KEPT, LogNow(5, 60, ID, 4, cut=20), (20, "", False)),
    "lost its end and its offset": (NOT_COMMITTED, KEPT, LogNow(5, 60, ID, 4, cut=20), (20, "", False)),
    "lost its end since the last check": ((40, ""), KEPT._replace(checked=9), LogNow(5, 30, ID, 4, 20), (20, "", False)),
    "lost all of it": ((40, ""), KEPT, LogNow(0, 0, ID, 4, cut=0), (0, "", False)),
    "another leader, nothing lost": ((40, KEPT.map), KEPT, LogNow(5, 60, ID, 4, cut=45), (40, KEPT.map, True)),
    "shorter, and nobody says where": ((40, ""), None, LogNow(5, 30, ID, 4), (5, "", False)),
    "lost what the map speaks of": (
        (40, text(40, (42, 44), (50, 55))), KEPT._replace(checked=58), LogNow(5, 60, ID, 4, cut=43),
        (40, text(40, (42, 42)), False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_where_a_partition_begins(case: str) -> None:
    """Never behind a record that was not answered; before one that was only where nothing better is known."""
    committed, kept, log, expected = CASES[case]
    assert start(committed, kept, log) == expected


def test_ends_that_are_not_exact_prove_nothing() -> None:
    """The embedded broker tells ends that are too small."""
    assert start((40, ""), None, LogNow(0, 30), exact_ends=False) == (40, "", True)


@pytest.mark.parametrize(
    ("topic_id", "cut", "lost"),
    [(ID, None, False), (ID, 40, False), (ID, 39, True), (OTHER, None, True), ("", None, False), ("", 39, True)],
)
def test_a_running_worker_tells_another_log_from_its_own(topic_id: str, cut: int | None, lost: bool) -> None:
    """By the topic's id, or by where the epoch it knew ends now. What is not known is no change."""
    assert (lost_its_end(KEPT, topic_id, cut) is not None) is lost
