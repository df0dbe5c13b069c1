"""Rows of the statistics table: keys that carry their partition, and which of two rows survives a recovery."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from streams.rules.detection.alarms import SeriesId
from streams.rules.detection.detectors import Thresholds
from streams.rules.windows.series import Series
from streams.rules.windows.windows import Span, Window
from streams.statistics.table import DELETED_AT, Recovery, StatsTable, parse_key, series_key, source_offset, window_key

AWKWARD = SeriesId('agent "1", [x]\u2028', "pattern/ü", "")
SPANS: Any = {"minute": Span(60_000, 0, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}


def test_keys_are_read_back_whatever_the_names_hold() -> None:
    """Quotes, commas and foreign letters in an agent's id."""
    assert parse_key(series_key(7, AWKWARD)) == (7, AWKWARD, None)
    assert parse_key(window_key(7, AWKWARD, ("hour", 3_600_000))) == (7, AWKWARD, ("hour", 3_600_000))
    assert series_key(7, AWKWARD) != series_key(8, AWKWARD)


def test_every_row_begins_with_the_source_offset() -> None:
    """Series and closed windows alike: recovery compares them."""
    series = Series(AWKWARD, 0, SPANS, Thresholds())
    series.offset = 41
    assert source_offset(orjson.dumps(series.to_json())) == 41
    assert source_offset(orjson.dumps(Window(offset=12, closed=True).to_json())) == 12
    with pytest.raises(ValueError, match="version"):
        Series.from_json([41, 99, 0, None, None], AWKWARD, 0, SPANS, None)


def _recovered(*rows: tuple[bytes, bytes | None]) -> dict[bytes, bytes]:
    table = SimpleNamespace(data={})
    records = [SimpleNamespace(key=key, value=value) for key, value in rows]
    StatsTable.recover(cast("StatsTable", table), records)
    return cast("dict[bytes, bytes]", table.data)


def test_a_row_of_a_worker_that_slept_does_not_replace_a_newer_one() -> None:
    """The higher source offset wins, the later row among equals, and a deletion deletes."""
    assert _recovered((b"k", b"[9,1]"), (b"k", b"[12,1]"), (b"k", b"[10,1]")) == {b"k": b"[12,1]"}
    assert _recovered((b"k", b"[9,1]"), (b"k", b"[9,2]")) == {b"k": b"[9,2]"}
    assert _recovered((b"k", b"[9,1]"), (b"k", None)) == {}
    assert _recovered((b"k", b"[9,1]"), (b"k", None), (b"k", b"[3,1]")) == {b"k": b"[3,1]"}


def _records(*rows: tuple[bytes, bytes | None, int | None]) -> list[SimpleNamespace]:
    """Rows of the changelog; the third is the offset a deletion knew."""
    return [
        SimpleNamespace(key=key, value=value, headers=() if known is None else ((DELETED_AT, str(known).encode()),))
        for key, value, known in rows
    ]


@pytest.mark.parametrize(
    ("rows", "left", "overtaken"),
    [
        ([(b"k", b"[12,1]", None), (b"k", None, 9)], {b"k": b"[12,1]"}, {b"k"}),
        ([(b"k", b"[12,1]", None), (b"k", None, 12)], {}, set()),
        ([(b"k", b"[12,1]", None), (b"k", None, 12), (b"k", b"[9,1]", None)], {}, set()),
        ([(b"k", b"[12,1]", None), (b"k", None, 12), (b"k", b"[13,1]", None)], {b"k": b"[13,1]"}, set()),
        ([(b"k", b"[12,1]", None), (b"k", b"[9,1]", None)], {b"k": b"[12,1]"}, {b"k"}),
        ([(b"k", b"[12,1]", None), (b"k", b"[9,1]", None), (b"k", b"[14,1]", None)], {b"k": b"[14,1]"}, set()),
        ([(b"k", b"[12,1]", None), (b"k", None, 9), (b"k", None, 12)], {}, set()),
    ],
)
def test_neither_rows_nor_deletions_of_a_worker_that_slept_count(
    rows: Any, left: dict[bytes, bytes], overtaken: set[bytes]
) -> None:
    """What lies beneath an older row is known, and is to be written again before compaction keeps the older one only."""
    table, recovery = SimpleNamespace(data={}), Recovery({}, set())
    StatsTable.recover(cast("StatsTable", table), _records(*rows), recovery)
    assert table.data == left
    assert recovery.overtaken == overtaken
