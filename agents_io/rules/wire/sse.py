"""Server-sent events, the part that carries data: bytes as they arrive to the data of each whole event. Pure.

In: pieces cut anywhere. Out: each event's data, lines joined, in order; comments, names, ids and retry times are passed over.
Source: the WHATWG HTML standard, "Server-sent events", interpretation of an event stream. The caller bounds the bytes.
"""

from __future__ import annotations


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

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are whole now."""
        raw = self._rest + piece
        if not self._begun:
            if len(raw) < 3 and b"\xef\xbb\xbf".startswith(raw):
                self._rest = raw  # a byte order mark, perhaps
                return []
            raw, self._begun = raw.removeprefix(b"\xef\xbb\xbf"), True
        held = b""
        if raw.endswith(b"\r"):  # half of a \r\n, perhaps
            raw, held = raw[:-1], b"\r"
        *lines, last = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = last + held
        return [data for line in lines if (data := self._line(line)) is not None]

    def end(self) -> list[bytes]:
        """The stream is over: an event whose empty line is missing still counts."""
        found = self.feed(b"\n\n")
        return [*found, *self.feed(b"\n")]

    def _line(self, line: bytes) -> bytes | None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._lines.append(value.removeprefix(b" "))
            return None
        if not self._lines:
            return None
        data, self._lines = b"\n".join(self._lines), []
        return data
