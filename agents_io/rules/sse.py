"""Server-sent events: from bytes as they arrive to the data of each complete event, and where to resume. Pure.

In: pieces cut anywhere. Out: each event's data, lines joined, in order; the newest id and retry time. Comments and
names are ignored. Source: the WHATWG HTML standard, "Server-sent events", interpretation of an event stream. The caller
bounds the bytes.
"""

from __future__ import annotations

from typing import Any

from agents_io.errors import AnswerTooLarge, BadResponse
from agents_io.rules.answer import load_json

MAX_ID = 1024


def event_json(data: bytes) -> Any:
    """The data of an event as JSON. Raises `BadResponse`: it is not JSON, or nested too deep."""
    try:
        return load_json(data)
    except BadResponse:  # not quoted: it may repeat our secret
        raise BadResponse("the stream holds an event that is not JSON, or is nested too deep") from None


class EventData:
    """`feed` pieces of one stream.

    >>> stream = EventData()
    >>> stream.feed(b"event: message\\ndata: {\\"a\\":"), stream.feed(b"1}\\n\\n: alive\\n\\ndata: x\\rdata: y\\r\\n\\r\\n")
    ([], [b'{"a":1}', b'x\\ny'])
    """

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._begun = False
        self._largest = 0
        self._id = b""
        self.last_id = b""
        """Id of the newest complete event that has one; sent as `Last-Event-ID` to resume the stream."""
        self.retry_s: float | None = None
        """How long the server asks to wait before resuming."""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are complete now."""
        raw = self._rest + piece
        if not self._begun:
            if len(raw) < 3 and b"\xef\xbb\xbf".startswith(raw):
                self._rest = raw  # possibly a byte order mark
                return []
            raw, self._begun = raw.removeprefix(b"\xef\xbb\xbf"), True
        held = b""
        if raw.endswith(b"\r"):  # possibly half of a \r\n
            raw, held = raw[:-1], b"\r"
        *lines, last = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = last + held
        return [data for line in lines if (data := self._line(line)) is not None]

    def check_size(self, most: int) -> None:
        """Raises `AnswerTooLarge` if an event, also an incomplete one, has more bytes than `most`."""
        if max(self._largest, len(self._rest) + sum(map(len, self._lines))) > most:
            raise AnswerTooLarge(f"an event of the stream is larger than {most} bytes")

    def end(self) -> list[bytes]:
        """The stream is over: an event without its final empty line still counts."""
        found = self.feed(b"\n\n")
        return [*found, *self.feed(b"\n")]

    def _line(self, line: bytes) -> bytes | None:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self._lines.append(value)
            elif name == b"id" and b"\0" not in value and len(value) <= MAX_ID:
                self._id = value
            elif name == b"retry" and value.isdigit() and len(value) < 10:
                self.retry_s = int(value) / 1000
            return None
        self.last_id = self._id
        if not self._lines:
            return None
        data, self._lines = b"\n".join(self._lines), []
        self._largest = max(self._largest, len(data))
        return data
