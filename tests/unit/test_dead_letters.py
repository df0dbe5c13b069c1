"""Dead letters of every family are read, and what goes back is what came."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rules.broker.dead_letters import (
    DlqHeaders,
    NotReplayable,
    RecordId,
    build_replay,
    dlq_topic,
    parse_record_id,
    printable,
    read_dlq_headers,
    readable,
    word,
)
from streams.rules.records import Recorder
from streams.rules.source_record import SourceRecord

NOW_MS = 1_795_354_620_123
RECORDER = Recorder(app_id="app", processor="dispatch", prefix="p.", group="app-dispatch")
PREFIX = "p."


def ours(**more: object) -> SourceRecord:
    """A record dispatch refuses."""
    return replace(SourceRecord("tasks", 3, 41, b"\xfe", b"{nope", (("ce_id", b"e1"), ("mine", b"\x00\xff"))), **more)  # type: ignore[arg-type]


def test_our_own_letters_tell_everything() -> None:
    """What the recorder writes is what the command reads."""
    output = RECORDER.dead_letter(ours(), "decode", "value: is not JSON ü", NOW_MS)[0]
    found = read_dlq_headers(output.headers)
    assert found == DlqHeaders(
        family="parallax",
        topic="p.tasks",
        partition=3,
        offset=41,
        reason="value: is not JSON ü",
        stage="decode",
        exception="Rejected",
        group="app-dispatch",
        deliveries=1,
        time="2026-11-22T13:37:00.123Z",
    )
    assert found.origin == "p.tasks/3/41"


OTHERS = {
    "kafka": (
        [
            ("__dlq.errors.topic", b"p.tasks"),
            ("__dlq.errors.partition", b"3"),
            ("__dlq.errors.offset", b"41"),
            ("__dlq.errors.group", b"share-1"),
            ("__dlq.errors.delivery.count", b"5"),
            ("__dlq.errors.message", b"why"),
        ],
        {"group": "share-1", "deliveries": 5},
    ),
    "connect": (
        [
            ("__connect.errors.topic", b"p.tasks"),
            ("__connect.errors.partition", b"3"),
            ("__connect.errors.offset", b"41"),
            ("__connect.errors.connector.name", b"sink"),
            ("__connect.errors.task.id", b"0"),
            ("__connect.errors.stage", b"VALUE_CONVERTER"),
            ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
            ("__connect.errors.exception.class.name", b"DataException"),
            ("__connect.errors.exception.message", b"why"),
            ("__connect.errors.exception.stacktrace", b"at ..."),
        ],
        {"group": "sink", "stage": "VALUE_CONVERTER", "exception": "DataException"},
    ),
    "streams": (
        [
            ("__streams.errors.exception", b"org.apache.kafka.streams.errors.StreamsException"),
            ("__streams.errors.stacktrace", b"at ..."),
            ("__streams.errors.message", b"why"),
            ("__streams.errors.topic", b"p.tasks"),
            ("__streams.errors.partition", b"3"),
            ("__streams.errors.offset", b"41"),
        ],
        {"exception": "org.apache.kafka.streams.errors.StreamsException"},
    ),
    "spring": (
        [
            ("kafka_dlt-original-topic", b"p.tasks"),
            ("kafka_dlt-original-partition", (3).to_bytes(4, "big")),
            ("kafka_dlt-original-offset", (41).to_bytes(8, "big")),
            ("kafka_dlt-original-timestamp", (NOW_MS).to_bytes(8, "big")),
            ("kafka_dlt-original-timestamp-type", b"CREATE_TIME"),
            ("kafka_dlt-original-consumer-group", b"g"),
            ("kafka_dlt-exception-fqcn", b"ListenerExecutionFailedException"),
            ("kafka_dlt-exception-cause-fqcn", b"IllegalStateException"),
            ("kafka_dlt-exception-message", b"why"),
        ],
        {"group": "g", "exception": "ListenerExecutionFailedException"},
    ),
}


@pytest.mark.parametrize("family", OTHERS)
def test_letters_of_others_are_understood(family: str) -> None:
    """Origin, reason and what else each family tells; they can be replayed."""
    headers, more = OTHERS[family]
    expected = {"family": family, "topic": "p.tasks", "partition": 3, "offset": 41, "reason": "why"} | more
    assert read_dlq_headers(headers) == DlqHeaders(**expected)  # type: ignore[arg-type]
    assert build_replay(b"k", b"v", headers, PREFIX).topic == "p.tasks"


def test_ours_count_before_marks_that_were_there_already() -> None:
    """A task that brings dead-letter headers of its own cannot forge where it came from."""
    brought = (("__dlq.errors.topic", b"secret"), ("__connect.errors.topic", b"other"), ("parallax.dlq.stage", b"x"))
    output = RECORDER.dead_letter(ours(headers=brought), "decode", "why", NOW_MS)[0]
    found = read_dlq_headers(output.headers)
    assert (found.topic, found.stage) == ("p.tasks", "decode")
    assert build_replay(None, b"", output.headers, PREFIX).headers == (
        ("__connect.errors.topic", b"other"),
        ("parallax-replayed", b"1"),
    )


@pytest.mark.parametrize("raw", [b"", b"-1", b"4x", b"9" * 30, b"\xff", None, "\uff14".encode()])
def test_a_number_that_is_none_is_not_told(raw: bytes | None) -> None:
    """Foreign headers may hold anything."""
    headers = [("__dlq.errors.topic", b"p.tasks"), ("__dlq.errors.offset", raw), ("parallax-replayed", raw)]
    found = read_dlq_headers(headers)  # type: ignore[arg-type]
    assert (found.offset, found.replayed, found.origin) == (None, 0, "p.tasks/?/?")


def test_a_reason_is_bounded() -> None:
    """Others put whole documents into their messages."""
    assert len(read_dlq_headers([("__connect.errors.exception.message", b"x" * 100_000)]).reason or "") == 1000


@given(
    st.lists(
        st.tuples(
            st.sampled_from([name for headers, _ in OTHERS.values() for name, _ in headers])
            | st.sampled_from(["parallax.dlq.omitted_bytes", "parallax.dlq.time", "parallax-replayed", "x"]),
            st.none() | st.binary(max_size=20),
        )
    )
)
def test_any_headers_can_be_read(headers: list[tuple[str, bytes]]) -> None:
    """Reading never raises, and a replay is refused or keeps what is not ours."""
    read_dlq_headers(headers)
    try:
        built = build_replay(b"k", b"v", headers, PREFIX)
    except NotReplayable:
        return
    kept = [pair for pair in headers if not pair[0].startswith(("__dlq.", "parallax"))]
    assert list(built.headers[:-1]) == kept
    assert built.headers[-1] == ("parallax-replayed", str(built.count).encode())


@given(st.none() | st.binary(), st.none() | st.binary(), st.integers(0, 5))
def test_a_round_trip_changes_nothing(key: bytes | None, value: bytes | None, rounds: int) -> None:
    """Refused, replayed, refused again: the same bytes, key and headers, and the count."""
    record = ours(key=key, value=value)
    for count in range(1, rounds + 2):
        output = RECORDER.dead_letter(record, "decode", "why", NOW_MS)[0]
        built = build_replay(output.key, output.value, output.headers, PREFIX)
        assert (built.topic, built.key, built.value, built.count) == ("p.tasks", key, value, count)
        assert built.headers == (*ours().headers, ("parallax-replayed", str(count).encode()))
        record = ours(key=built.key, value=built.value, headers=built.headers)


@pytest.mark.parametrize(
    ("came_from", "goes_to"),
    [("tasks", "p.tasks"), ("dispatch", "p.tasks"), ("parked", "p.tasks"), ("data-points", "p.data-points")],
)
def test_where_a_letter_goes(came_from: str, goes_to: str) -> None:
    """Back to its topic; from the internal ones to the start."""
    output = RECORDER.dead_letter(ours(topic=came_from), "decode", "why", NOW_MS)[0]
    assert build_replay(output.key, output.value, output.headers, PREFIX).topic == goes_to


def test_a_topic_called_dispatch_of_another_prefix_is_left_alone() -> None:
    """Only ours are internal."""
    assert build_replay(b"k", b"v", [("__dlq.errors.topic", b"q.dispatch")], PREFIX).topic == "q.dispatch"


def test_a_letter_without_its_value_is_refused() -> None:
    """Neither smaller form of a large letter goes back."""
    output = RECORDER.dead_letter(ours(value=b"x" * 70_000), "decode", "why", NOW_MS)[0]
    assert build_replay(output.key, output.value, output.headers, PREFIX).value == b"x" * 70_000
    smaller = output.fallback
    while smaller is not None:
        with pytest.raises(NotReplayable, match="70000 bytes was too large"):
            build_replay(smaller.key, smaller.value, smaller.headers, PREFIX)
        smaller = smaller.fallback


@pytest.mark.parametrize("raw", [b"0", b"many", b""])
def test_the_omitted_header_counts_whatever_it_holds(raw: bytes) -> None:
    """A size that cannot be read does not make the value whole."""
    with pytest.raises(NotReplayable, match="0 bytes was too large"):
        build_replay(b"k", None, [("__dlq.errors.topic", b"p.tasks"), ("parallax.dlq.omitted_bytes", raw)], PREFIX)


def test_a_letter_of_unknown_origin_is_refused() -> None:
    """No guess from the name of the topic it lies on."""
    with pytest.raises(NotReplayable, match="no header names"):
        build_replay(b"k", b"v", [("a", b"b")], PREFIX)


@pytest.mark.parametrize("name", ["tasks", "dlq.tasks", "dlq.p.tasks"])
def test_places_may_be_written_short(name: str) -> None:
    """And come out in full, as `ls` prints them."""
    assert parse_record_id(f"{name}/2/7", PREFIX) == RecordId("dlq.p.tasks", 2, 7)
    assert parse_record_id("dlq.p.tasks/2/7", PREFIX) == parse_record_id(str(RecordId("dlq.p.tasks", 2, 7)), PREFIX)


@pytest.mark.parametrize(
    "text", ["", "tasks", "tasks/1", "tasks/a/1", "tasks/1/-1", "/1/1", "a/b/1/1", f"tasks/1/{9**20}"]
)
def test_what_is_no_place(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(ValueError, match="write TOPIC/PARTITION/OFFSET"):
        parse_record_id(text, PREFIX)


def test_the_place_of_the_original_is_not_the_letters() -> None:
    """Events name the original's place; taken for the letter's it would be another record."""
    with pytest.raises(ValueError, match="not on a dead-letter topic"):
        parse_record_id("p.tasks/0/41", PREFIX)


@pytest.mark.parametrize(
    ("name", "prefix", "topic"),
    [
        ("tasks", "", "dlq.tasks"),
        ("dlq.tasks", "", "dlq.tasks"),
        ("tasks", "t", "dlq.ttasks"),
        ("dlq.p.orders-sink", "p.", "dlq.p.orders-sink"),
        ("orders-sink", "p.", "dlq.p.orders-sink"),
    ],
)
def test_names_under_other_prefixes(name: str, prefix: str, topic: str) -> None:
    """A topic of the table is known by its short name whatever the prefix."""
    assert dlq_topic(name, prefix) == topic


def test_json_too_deep_to_write_is_text() -> None:
    """What can be read but not printed as JSON is shown as it is."""
    deep = b"[" * 300 + b"]" * 300
    assert readable(deep) == ("text", deep.decode())
    fits = readable(b"[" * 252 + b"]" * 252)
    assert orjson.dumps({"value": fits[1]})


def test_a_terminal_cannot_be_steered() -> None:
    """Escapes, C1 controls and bidirectional overrides are spelled out; text in any script stays."""
    said = printable("ok\x1b]0;x\x07 \x9b2J \u202e\nnächste 行")
    assert all(c.isprintable() or c == "\n" for c in said)
    assert said.endswith("\nnächste 行")


def test_keys_and_headers_that_are_no_text() -> None:
    """As hexadecimal digits."""
    assert [word(b"1e5"), word(b"\xfe"), word((3).to_bytes(4, "big"))] == ["1e5", "fe", "00000003"]
