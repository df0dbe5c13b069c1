"""Dead letters: origin and reason, and the record that replays one. Pure.

In: key, value and headers of a record on a `dlq.*` topic, written by us, a Kafka 4.4 broker, Connect, Kafka Streams or
Spring. Out: `DlqHeaders`, and the `Replay` for the topic it came from. Never guesses an origin that no header names,
never changes the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from schemas.codec import Headers, header
from schemas.dead_letter_headers import OMITTED_HEADER
from schemas.exact_json import dumps
from schemas.topics import BY_NAME, full_name
from schemas.wire_format import loads

REPLAYED_HEADER = "parallax-replayed"
STRIPPED = ("__dlq.", "parallax.dlq.")
MAX_REASON = 1000
MAX_DIGITS = 18
"""Digits of a number in a header: always fits a signed 64-bit integer."""
BACK_TO_TASKS = ("dispatch", "parked", "scheduled")
"""Their records carry a worker's decisions; a dead letter from there starts again."""

Family = Literal["parallax", "kafka", "connect", "streams", "spring", "unknown"]

# Family, prefix of its headers, and the rest of each header's name.
_FAMILIES: tuple[tuple[Family, str, Mapping[str, str]], ...] = (
    (
        "kafka",
        "__dlq.errors.",
        {
            "topic": "topic",
            "partition": "partition",
            "offset": "offset",
            "reason": "message",
            "group": "group",
            "deliveries": "delivery.count",
        },
    ),
    (
        "connect",
        "__connect.errors.",
        {
            "topic": "topic",
            "partition": "partition",
            "offset": "offset",
            "reason": "exception.message",
            "exception": "exception.class.name",
            "stage": "stage",
            "group": "connector.name",
        },
    ),
    (
        "streams",
        "__streams.errors.",
        {
            "topic": "topic",
            "partition": "partition",
            "offset": "offset",
            "reason": "message",
            "exception": "exception",
        },
    ),
    (
        "spring",
        "kafka_dlt-",
        {
            "topic": "original-topic",
            "partition": "original-partition",
            "offset": "original-offset",
            "reason": "exception-message",
            "exception": "exception-fqcn",
            "group": "original-consumer-group",
        },
    ),
)
_NUMBERS = frozenset(("partition", "offset", "deliveries"))


class NotReplayable(Exception):
    """A dead letter that cannot be replayed; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class DlqHeaders:
    """The content of a dead letter's headers; None where they are missing. `topic`: full name of the origin. `time`:
    RFC 3339.
    """

    family: Family = "unknown"
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    reason: str | None = None
    stage: str | None = None
    exception: str | None = None
    group: str | None = None
    agent: str | None = None
    deliveries: int | None = None
    time: str | None = None
    omitted_bytes: int | None = None
    replayed: int = 0

    @property
    def origin(self) -> str | None:
        """`TOPIC/PARTITION/OFFSET` of the original record, `?` for unknown parts.

        >>> DlqHeaders(topic="parallax.tasks", partition=0, offset=41).origin
        'parallax.tasks/0/41'
        """
        if self.topic is None:
            return None
        return "/".join("?" if part is None else str(part) for part in (self.topic, self.partition, self.offset))


@dataclass(frozen=True, slots=True)
class Replay:
    """The record to send. `topic`: full name. `count`: how often the record has been replayed, this time included."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    count: int


@dataclass(frozen=True, slots=True)
class RecordId:
    """The position of a dead letter. `topic`: full name of the dead-letter topic."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def dlq_topic(name: str, prefix: str) -> str:
    """The full name of the dead-letter topic for `tasks`, `dlq.tasks`, `parallax.tasks` or `dlq.parallax.tasks`.

    >>> {dlq_topic(name, "p.") for name in ("tasks", "dlq.tasks", "p.tasks", "dlq.p.tasks")}
    {'dlq.p.tasks'}
    """
    short = name.removeprefix("dlq.")
    if short not in BY_NAME:
        short = short.removeprefix(prefix)
    return full_name(f"dlq.{short}", prefix)


def parse_record_id(text: str, prefix: str) -> RecordId:
    """A position as `parallax dlq ls` prints it; the topic may be short. Raises `ValueError` with the reason.

    >>> str(parse_record_id("tasks/0/41", "parallax."))
    'dlq.parallax.tasks/0/41'
    """
    topic, *numbers = text.rsplit("/", 2)
    if not topic or "/" in topic or len(numbers) != 2 or not all(_digits(number) for number in numbers):
        raise ValueError(f"{text}: is not a place; write TOPIC/PARTITION/OFFSET as `parallax dlq ls` prints it")
    if prefix and topic.startswith(prefix) and topic not in BY_NAME:
        # The place of the original, as events and logs have it; the dead letter lies elsewhere.
        raise ValueError(f"{text}: is not on a dead-letter topic; `parallax dlq ls` prints the place of each")
    return RecordId(dlq_topic(topic, prefix), int(numbers[0]), int(numbers[1]))


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def read_dlq_headers(headers: Headers) -> DlqHeaders:
    """The content of a dead letter's headers. Of repeated headers the last counts; never raises.

    >>> read_dlq_headers([("__dlq.errors.topic", b"parallax.tasks"), ("__dlq.errors.message", b"id: missing")]).reason
    'id: missing'
    """
    fields_found: dict[str, Any] = {}
    names = [name for name, _ in headers]
    for family, begin, fields in _FAMILIES:
        if any(name.startswith(begin) for name in names):
            fields_found = {field: _field(headers, begin + rest, field) for field, rest in fields.items()} | {
                "family": family
            }
            break
    ours = {field: _text(headers, f"parallax.dlq.{field}") for field in ("exception", "stage", "agent", "time")}
    fields_found |= {field: text for field, text in ours.items() if text is not None}
    if fields_found.get("family") == "kafka" and any(name.startswith("parallax.dlq.") for name in names):
        fields_found["family"] = "parallax"
    if fields_found.get("reason") is not None:
        fields_found["reason"] = fields_found["reason"][:MAX_REASON]
    omitted = _omitted(headers)
    return DlqHeaders(**fields_found, omitted_bytes=omitted, replayed=_number(_raw(headers, REPLAYED_HEADER)) or 0)


def _raw(headers: Headers, name: str) -> bytes | None:
    found = None
    for key, value in headers:
        if key == name:
            found = value
    return found


def _text(headers: Headers, name: str) -> str | None:
    return header([pair for pair in headers if pair[1] is not None], name) or None


def _field(headers: Headers, name: str, field: str) -> str | int | None:
    if field not in _NUMBERS:
        return _text(headers, name)
    raw = _raw(headers, name)
    if name.startswith("kafka_dlt-"):  # Spring writes its numbers as big-endian integers, all others as text
        return int.from_bytes(raw, "big", signed=True) if raw is not None and len(raw) in (4, 8) else None
    return _number(raw)


def _number(raw: bytes | None) -> int | None:
    return int(raw) if raw is not None and raw.isdigit() and len(raw) <= MAX_DIGITS else None


def _omitted(headers: Headers) -> int | None:
    """The size of a value that was left out; 0 if the header has no number: the value is still not the original."""
    if not any(name == OMITTED_HEADER for name, _ in headers):
        return None
    return _number(_raw(headers, OMITTED_HEADER)) or 0


def build_replay(key: bytes | None, value: bytes | None, headers: Headers, prefix: str) -> Replay:
    """The record that sends a dead letter back to the topic it came from. Raises `NotReplayable`.

    It has the original bytes and key, the headers without those added for the dead letter, and the number of replays.

    >>> build_replay(b"k", b"{}", [("__dlq.errors.topic", b"p.parked"), ("a", b"1")], "p.")
    Replay(topic='p.tasks', key=b'k', value=b'{}', headers=(('a', b'1'), ('parallax-replayed', b'1')), count=1)
    """
    found = read_dlq_headers(headers)
    if found.omitted_bytes is not None:
        raise NotReplayable(
            f"its value of {found.omitted_bytes} bytes was too large for the dead-letter topic and was left out; "
            "send the original again from where it came from"
        )
    if found.topic is None:
        raise NotReplayable("no header names the topic it came from")
    topic = found.topic
    if topic in {full_name(name, prefix) for name in BACK_TO_TASKS}:
        topic = full_name("tasks", prefix)
    count = found.replayed + 1
    kept = [pair for pair in headers if not pair[0].startswith(STRIPPED) and pair[0] != REPLAYED_HEADER]
    return Replay(topic, key, value, (*kept, (REPLAYED_HEADER, str(count).encode())), count)


def readable(value: bytes | None, headers: Headers = ()) -> tuple[Literal["none", "json", "text", "hex"], Any]:
    r"""Bytes for people and scripts: their kind, and the JSON value, the text or the hexadecimal digits.

    `headers` may name the schema that the value was written with.

    >>> readable(b'{"a":1}'), readable(b"hello"), readable(b"\xff\x00"), readable(None)
    (('json', {'a': 1}), ('text', 'hello'), ('hex', 'ff00'), ('none', None))
    """
    if value is None:
        return "none", None
    try:
        parsed = loads(value, headers)
        dumps([[parsed]])  # orjson reads four times as deep as it writes
    except (ValueError, TypeError):
        pass
    else:
        return "json", parsed
    try:
        return "text", value.decode("utf-8")
    except UnicodeDecodeError:
        return "hex", value.hex()


def word(raw: bytes | None) -> str | None:
    r"""A key or a header's value as text; hexadecimal digits if it is not text.

    >>> word(b"task-1"), word(b"\x00\x00\x00\x03"), word(None)
    ('task-1', '00000003', None)
    """
    if raw is None:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex()
    return text if all(c.isprintable() or c in "\r\n\t" for c in text) else raw.hex()


def printable(text: str) -> str:
    r"""Text for a terminal: control characters are escaped, since a dead letter could control the terminal with them.
    Line ends and tabs stay.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
