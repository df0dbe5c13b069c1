"""The live page's rules: cursors, watch requests, what is shown of an event, rates, and how a task stands."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.live.cursor import decode, encode
from streams.rules.live.entries import EVENT_BYTES, Entry, EntryBuffer, entry, merged
from streams.rules.live.query import watch_request
from streams.rules.live.rates import MOST_KINDS, Rates
from streams.rules.live.task_status import has_ended, in_order, result_keys, status_of

SECOND = 1000


def raw(kind: str = "task:completed", **data: object) -> bytes:
    return orjson.dumps({"id": "i", "type": kind, "timestamp": "T", "data": data})


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 2**63 - 1)))
def test_a_cursor_says_what_was_put_into_it(positions: dict[int, int]) -> None:
    """All positions come back."""
    assert decode(encode(positions)) == positions


@pytest.mark.parametrize(
    "text", ["", "v2.1", "v1.-5", "v1.+5", "v1. 5", "v1.1_0", "v1.é", "v1." + "z" * 20, "v1" + "." * 9000]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """With a reason."""
    with pytest.raises(ValueError, match="is "):
        decode(text)


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_a_value_error(text: str) -> None:
    """Nothing else comes out, and what is taken is harmless."""
    try:
        positions = decode(text)
    except ValueError:
        return
    assert all(0 <= offset < 2**63 for offset in positions.values())


@pytest.mark.parametrize(
    ("types", "last", "cursor", "named"),
    [
        ("task:,", None, None, "types"),
        ("nothing:", None, None, "types"),
        (None, "-1", None, "last"),
        (None, "2001", None, "last"),
        (None, "", None, "last"),
        (None, "1e2", None, "last"),
        (None, None, "garbage", "Last-Event-ID"),
    ],
)
def test_a_bad_wish_is_refused_by_the_name_of_its_field(
    types: str | None, last: str | None, cursor: str | None, named: str
) -> None:
    """The message begins with it."""
    with pytest.raises(ValueError, match=f"^{named}: "):
        watch_request(types, last, cursor)


def test_a_long_answer_is_told_by_its_size_and_the_rest_is_as_on_the_topic() -> None:
    """Just `result`; a short one stays, bytes and all."""
    short = raw(taskId="t", result="r" * 1500, executionTime=12.5)
    one = entry(short, 3, 7, 11)
    assert one is not None
    assert one.json is short
    assert (one.kind, one.partition, one.offset, one.at_ms, one.execution_ms) == ("task:completed", 3, 7, 11, 12.5)
    long = entry(raw(taskId="t", result="r" * 5000), 0, 0, 0)
    assert long is not None
    assert orjson.loads(long.json)["data"] == {"taskId": "t", "result": {"truncated": 5002}}


@pytest.mark.parametrize(
    "value",
    [
        raw(taskId="t", error={"message": "m" * 100_000}),
        raw(**{f"f{n}": "x" * 2000 for n in range(50)}),
        orjson.dumps({"id": "i" * 90_000, "type": "task:failed", "timestamp": "T", "data": {}, "more": "m" * 90_000}),
    ],
)
def test_no_event_is_kept_beyond_its_bound(value: bytes) -> None:
    """Whatever it is that is long in it."""
    one = entry(value, 0, 0, 0)
    assert one is not None
    assert len(one.json) <= 2 * EVENT_BYTES


def test_an_event_written_over_several_lines_is_sent_on_one() -> None:
    """Or it would break the stream, or forge a message of its own."""
    one = entry(b'{"id":"i",\n"type":"x",\r\n"timestamp":"T","data":{}}', 0, 0, 0)
    assert one is not None
    assert b"\n" not in one.json
    assert b"\r" not in one.json


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"[]", b'"x"', b'{"type":1,"data":{}}', b'{"type":"x","data":[]}', b"\xff"]
)
def test_what_is_no_event_is_passed_over(value: bytes | None) -> None:
    """Anyone can write to a topic."""
    assert entry(value, 0, 0, 0) is None


def test_what_is_kept_is_bounded_by_number_and_by_bytes() -> None:
    """The oldest go."""
    kept = EntryBuffer(3, 10)
    entries = [Entry("x", 0, n, 0, b"12345" if n == 4 else b"1") for n in range(5)]
    gone = [one.offset for e in entries for one in kept.add(e)]
    assert gone == [0, 1]
    assert [one.offset for one in kept.add(Entry("x", 0, 5, 0, b"123456"))] == [2, 3, 4]
    assert [one.offset for one in kept.add(Entry("x", 0, 6, 0, b"1" * 11))] == [5, 6]
    assert len(kept) == 0


@given(st.lists(st.lists(st.integers(0, 100), max_size=20), max_size=4))
def test_partitions_are_merged_without_changing_their_order(times: list[list[int]]) -> None:
    """All entries, each partition in its own order."""
    parts = [[Entry("x", p, o, at, b"") for o, at in enumerate(row)] for p, row in enumerate(times)]
    together = merged(parts)
    assert len(together) == sum(map(len, parts))
    for number, part in enumerate(parts):
        assert [one for one in together if one.partition == number] == part


def test_rates_are_means_of_ten_seconds_and_forget() -> None:
    """Counts, quantiles within 1 %, success; nothing after the span."""
    rates = Rates()
    now = 100 * SECOND
    for n in range(90):
        rates.add("task:completed", now - n * 100, float(n + 1), now)
    for _ in range(10):
        rates.add("task:failed", now, None, now)
    row = rates.row(now)
    assert row["perSecond"] == {"task:completed": 9.0, "task:failed": 1.0}
    assert row["p50Ms"] == pytest.approx(45, rel=0.02)
    assert row["p95Ms"] == pytest.approx(86, rel=0.02)
    assert row["successRate"] == 0.9
    assert rates.row(now + 12 * SECOND) == {"perSecond": {}, "p50Ms": None, "p95Ms": None, "successRate": None}


def test_types_without_end_are_counted_together() -> None:
    """Whoever may write events must not fill the memory with them."""
    rates = Rates()
    for number in range(1000):
        rates.add(f"made:{number}", 5_000, None, 5_000)
    row = rates.row(5_000)["perSecond"]
    assert len(row) == MOST_KINDS + 1
    assert row["other"] == max(row.values())


def test_rates_of_a_reading_that_has_just_begun_are_taken_over_the_time_it_knows() -> None:
    """Else they would rise for ten seconds, whatever happens."""
    rates = Rates()
    rates.known_from(98 * SECOND)
    for n in range(40):
        rates.add("task:started", 98 * SECOND + n * 50, None, 100 * SECOND)
    assert rates.row(100 * SECOND)["perSecond"] == {"task:started": 20.0}


def test_an_old_event_counts_for_nothing_and_one_from_the_future_as_now() -> None:
    """Clocks differ."""
    rates = Rates()
    rates.add("task:started", 50 * SECOND, None, 100 * SECOND)
    rates.add("task:failed", 500 * SECOND, None, 100 * SECOND)
    assert rates.row(100 * SECOND)["perSecond"] == {"task:failed": 0.1}
    assert rates.row(115 * SECOND)["perSecond"] == {}


def event(kind: str, at: str = "1", **data: object) -> dict[str, object]:
    return {"type": kind, "timestamp": at, "data": data}


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([], "unknown"),
        (["task:duplicate"], "unknown"),
        (["task:started"], "running"),
        (["task:started", "task:retrying"], "running"),
        (["task:started", "task:parked"], "parked"),
        (["task:parked", "task:started"], "running"),
        (["task:started", "task:completed", "task:duplicate"], "success"),
        (["task:expired"], "timeout"),
        (["task:cancelled"], "cancelled"),
        (["task:failed"], "failure"),
    ],
)
def test_events_tell_how_a_task_stands_while_it_has_no_result(kinds: list[str], status: str) -> None:
    """The end, if there was one; else the last thing that happened."""
    assert status_of(None, [event(kind) for kind in kinds]) == status


def test_a_failure_by_its_time_is_a_timeout_and_the_result_has_the_last_word() -> None:
    """As in results."""
    failed = event("task:failed", error={"code": "timeout"})
    assert status_of(None, [failed]) == "timeout"
    assert status_of({"status": "cancelled"}, [failed]) == "cancelled"
    assert has_ended([failed])
    assert not has_ended([event("task:started")])


def test_events_are_told_in_the_order_of_time() -> None:
    """Progress travels apart from results: within a millisecond the topic's order says nothing."""
    rows = [
        event("task:completed", "2"),
        event("task:started", "1"),
        event("task:retrying", "2"),
        event("task:started", "2"),
    ]
    told = [(row["timestamp"], row["type"]) for row in in_order(rows)]
    assert told == [("1", "task:started"), ("2", "task:started"), ("2", "task:retrying"), ("2", "task:completed")]


def test_the_keys_of_a_result_are_bounded() -> None:
    """Whatever the id."""
    assert result_keys("p#1") == ["p#1", "p"]
    assert len(result_keys("#" * 256)) <= 10
    assert "" not in result_keys("#x")
