"""Server-sent events: the same events however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agents_io.rules.sse import EventData

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\nid: 7\nevent: message\ndata: one\n\ndata:two\rdata: three\r\rretry: 5\ndata\n\n"
    b"data:  four\r\n\r\ndata: a\r\ndata: b\r\n\r\ndata: never ended"
)
EVENTS = [b"one", b"two\nthree", b"", b" four", b"a\nb"]


def test_whole_stream_at_once() -> None:
    """Marks, comments and names are passed over, one space after the colon belongs to it."""
    reader = EventData()
    assert reader.feed(STREAM) == EVENTS
    assert reader.end() == [b"never ended"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_pieces_cut_anywhere_give_the_same_events(cuts: list[int]) -> None:
    """Also within a line end, and within the byte order mark."""
    reader = EventData()
    places = [0, *sorted(cuts), len(STREAM)]
    found = [data for begin, end in pairwise(places) for data in reader.feed(STREAM[begin:end])]
    assert found + reader.end() == [*EVENTS, b"never ended"]


def test_cut_at_every_place_and_byte_by_byte() -> None:
    """What a random cut may miss: each place there is."""
    for cuts in ([place] for place in range(len(STREAM))):
        reader = EventData()
        pieces = [STREAM[begin:end] for begin, end in pairwise([0, *cuts, len(STREAM)])]
        assert [data for piece in pieces for data in reader.feed(piece)] == EVENTS, cuts
    reader = EventData()
    assert [data for byte in STREAM for data in reader.feed(bytes([byte]))] == EVENTS
