"""Responses cut at arbitrary places and garbled: always a response or a clear error, never a hang nor an exception of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support.fake_socket import FakeSocket, outcome, whole

CAP = 1000


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner() as one:
        yield one


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, bytes, bool]:
    """A response of some framing: its bytes, status, body, and whether the connection's end is the body's."""
    body = draw(st.binary(max_size=60))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    status = draw(st.sampled_from([200, 200, 201, 404, 500, 204, 304]))
    interim = b"".join(
        b"HTTP/1.1 %d x\r\nLink: a\r\n\r\n" % code for code in draw(st.lists(st.sampled_from([100, 102, 103])))
    )
    headers = b"".join(
        b"X-%d: %b\r\n" % (number, value)
        for number, value in enumerate(draw(st.lists(st.sampled_from([b"", b"a", b"b c", b"\xe9"]), max_size=3)))
    )
    head = interim + b"HTTP/%b %d Reason\r\n" % (version.encode(), status) + headers
    if status in (204, 304):
        return head + b"\r\n", status, b"", False
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, status, body, False
    if framing == "end":
        return head + b"\r\n" + body, status, body, True
    cuts = sorted([*draw(st.lists(st.integers(0, len(body)), max_size=4)), 0, len(body)])
    chunks = [body[start:end] for start, end in pairwise(cuts) if end > start]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    trailers = draw(st.sampled_from([b"", b"T: 1\r\n", b"T: 1\r\nU: 2\r\n"]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n" + trailers + b"\r\n", status, body, False


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    bounds = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in pairwise(bounds)]


async def streamed(pieces: list[bytes], closes: bool) -> tuple[int, bytes] | str:
    """As `whole`, read as a stream."""
    socket = FakeSocket()
    socket.connection.send(b"POST / HTTP/1.1\r\n\r\n")

    async def reading() -> bytes:
        await socket.connection.read_head()
        body = b""
        while piece := await socket.connection.read():
            body += piece
        return body

    task = asyncio.ensure_future(reading())
    for piece in pieces:
        await asyncio.sleep(0)
        socket.feed(piece)
    return await outcome(socket, task, closes)


PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@given(response=responses(), places=PLACES)
def test_where_a_response_is_cut_changes_nothing(
    runner: asyncio.Runner, response: tuple[bytes, int, bytes, bool], places: list[int]
) -> None:
    """Whole or as a stream; only a body without length waits for the end of the connection."""
    raw, status, body, closes = response
    pieces = cut(raw, places)
    assert runner.run(whole(pieces, closes=closes)) == (status, body)
    assert runner.run(streamed(pieces, closes)) == (status, body)


@given(response=responses(), places=PLACES, short=st.integers(1, 10_000))
def test_a_response_that_breaks_off_is_never_taken_for_a_whole_one(
    runner: asyncio.Runner, response: tuple[bytes, int, bytes, bool], places: list[int], short: int
) -> None:
    """Except where its end is all that says how long the body is."""
    raw, status, body, ends_with_connection = response
    raw = raw[: -1 - short % len(raw)]
    end = runner.run(whole(cut(raw, places), closes=True))
    if ends_with_connection and end != "ReadError":
        assert isinstance(end, tuple)
        assert end[0] == status
        assert body.startswith(end[1])
    else:
        assert end == "ReadError"


@given(
    response=responses(),
    places=PLACES,
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from("rid"), st.integers(0, 255)), min_size=1, max_size=6
    ),
)
def test_a_garbled_response_is_a_response_or_a_clear_error(
    runner: asyncio.Runner,
    response: tuple[bytes, int, bytes, bool],
    places: list[int],
    edits: list[tuple[int, str, int]],
) -> None:
    """Bytes replaced, inserted, dropped. The connection is reusable only after a complete response."""
    raw = bytearray(response[0])
    for place, kind, byte in edits:
        at = place % (len(raw) + 1)
        raw[at : at + (kind != "i")] = b"" if kind == "d" else bytes([byte])
    pieces = cut(bytes(raw), places)
    for read in (whole(pieces, closes=True, cap=CAP), streamed(pieces, True)):
        end = runner.run(read)
        event(end if isinstance(end, str) else "a response")
        assert end in ("ReadError", "NotHttp") or isinstance(end, tuple)

    async def then() -> None:
        socket = FakeSocket()
        socket.connection.send(b"")
        socket.feed(*pieces)
        if not socket.connection.is_reusable:
            return
        socket.connection.send(b"")
        socket.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert await asyncio.wait_for(socket.connection.read_all(9, 9), 1) == b"ok"
        assert socket.connection.headers == [(b"Content-Length", b"2")]

    runner.run(then())


@given(pieces=st.lists(st.binary(max_size=50), max_size=10))
def test_noise_is_a_clear_error(runner: asyncio.Runner, pieces: list[bytes]) -> None:
    """Whatever listens at that port."""
    assert runner.run(whole(pieces, closes=True)) in ("ReadError", "NotHttp")
