"""One HTTP/1.1 connection, without a socket: how responses are framed, limited and ended, and when it can be reused."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from httptools import HttpResponseParser

from agents_io.http.connection import MAX_FIELD_BYTES, MAX_HEAD_BYTES, PAUSE_ABOVE_BYTES, NotHttp
from tests.support.fake_socket import FakeSocket, whole
from tests.support.memory import held

pytestmark = pytest.mark.virtual_time

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH_2 = OK + b"Content-Length: 2\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "response",
    [
        LENGTH_2 + b"hi",
        CHUNKED + b"1\r\nh\r\n1;ext=1\r\ni\r\n0\r\n\r\n",
        CHUNKED + b"2 \r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH_2 + b"hi",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 102 x\r\n\r\n" + LENGTH_2 + b"hi",
        OK + b"Upgrade: h2\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        OK + b"X: 1\r\n folded\r\nContent-Length: 2\r\n\r\nhi",
        LENGTH_2 + b"hi" + LENGTH_2 + b"no",
        LENGTH_2 + b"hi\0garbage",
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi and more",
    ],
)
async def test_every_framing_in_one_piece_and_byte_by_byte(response: bytes) -> None:
    """The body ends where it ends, without waiting for the server to close."""
    assert await whole([response]) == (200, b"hi")
    assert await whole([response[n : n + 1] for n in range(len(response))]) == (200, b"hi")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        OK + b"\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"Connection: close\r\n\r\n",
    ],
)
async def test_a_body_may_end_with_the_connection(head: bytes) -> None:
    """If nothing else says how long it is; a reset is no end."""
    assert await whole([head, b"h", b"i"], closes=True) == (200, b"hi")
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(head + b"hi")
    socket.lose(ConnectionResetError(104, "reset"))
    with pytest.raises(httpx.ReadError, match=r"in the middle of its answer: .*reset"):
        await socket.connection.read_all(9, 9)


@pytest.mark.parametrize(
    ("status", "body"), [(b"204 No Content", b""), (b"304 Not Modified", b"Content-Length: 9\r\n"), (b"101 x", b"")]
)
async def test_statuses_that_have_no_body(status: bytes, body: bytes) -> None:
    """Nothing is waited for."""
    assert await whole([b"HTTP/1.1 " + status + b"\r\n" + body + b"\r\n"]) == (int(status[:3]), b"")


@pytest.mark.parametrize(
    "response",
    [
        LENGTH_2 + b"h",
        CHUNKED + b"2\r\nhi\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n",
        OK + b"Content-Len",
        b"",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_an_answer_that_is_cut_off_is_an_error(response: bytes) -> None:
    """The connection failed; it is not HTTP's fault."""
    assert await whole([response], closes=True) == "ReadError"


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"Content-Length: -2\r\n\r\nhi",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"X: " + b"a" * MAX_FIELD_BYTES + b"\r\nContent-Length: 2\r\n\r\nhi",
        OK + (b"X: " + b"a" * 1000 + b"\r\n") * (MAX_HEAD_BYTES // 1000) + b"Content-Length: 2\r\n\r\nhi",
    ],
    ids=lambda response: response[:40].decode(),
)
async def test_what_is_not_http_or_has_too_large_a_head(response: bytes) -> None:
    """One clear error, however it is cut."""
    assert await whole([response]) == "NotHttp"
    assert await whole([response[n : n + 900] for n in range(0, len(response), 900)]) == "NotHttp"


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (OK + b"X: ", b"a" * 1000),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 40),
        (CHUNKED + b"2\r\nhi\r\n0\r\n", b"X-Trailer: 1\r\n" * 70),
        (CHUNKED + b"2;", b"x" * 1000),
    ],
    ids=["header", "interim", "trailers", "extension"],
)
async def test_what_is_no_body_has_an_end(start: bytes, endless: bytes) -> None:
    """Else a server could fill the memory without sending any body."""
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(start)
    fed = 0
    while not socket.was_aborted and fed < 4 * MAX_HEAD_BYTES:
        socket.feed(endless)
        fed += len(endless)
    assert fed <= MAX_HEAD_BYTES + len(endless)
    with pytest.raises(NotHttp):
        await socket.connection.read_all(9, 9)


@pytest.mark.parametrize(("status", "length"), [(b"200", 1000), (b"500", 100)])
async def test_a_body_is_cut_off_above_the_limit_of_its_status(status: bytes, length: int) -> None:
    """It is more than the limit, so the caller sees that it was too much, and the connection is of no more use."""
    socket = FakeSocket()
    socket.connection.send(b"")
    reading = asyncio.ensure_future(socket.connection.read_all(1000, 100))
    await asyncio.sleep(0)
    socket.feed(b"HTTP/1.1 " + status + b" x\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" + b"x" * length)
    await asyncio.sleep(0)
    assert not reading.done()
    socket.feed(b"x")
    assert await reading == b"x" * (length + 1)
    assert not socket.connection.is_complete
    assert not socket.connection.is_reusable


async def test_a_body_that_states_that_it_is_too_long_is_not_waited_for() -> None:
    """As soon as any of it comes."""
    socket = FakeSocket()
    socket.connection.send(b"")
    reading = asyncio.ensure_future(socket.connection.read_all(1000, 100))
    await asyncio.sleep(0)
    socket.feed(OK + b"Content-Length: 1001\r\n\r\nx")
    assert await asyncio.wait_for(reading, 1) == b"x"
    assert not socket.connection.is_complete


async def test_chunks_of_one_byte_are_joined() -> None:
    """A piece of every two bytes costs twenty times its size."""
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(CHUNKED + b"2\r\nhi\r\n" * 1000)
    assert len(held(socket.connection, bytes)) < 100


REUSABLE = [LENGTH_2 + b"hi", CHUNKED + b"2\r\nhi\r\n0\r\nT: 1\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n"]


@pytest.mark.parametrize("first", REUSABLE)
async def test_a_connection_carries_one_response_after_another(first: bytes) -> None:
    """Nothing of the first is in the second, trailers neither."""
    socket = FakeSocket()
    for response in (first, OK + b"X-Mine: 1\r\nContent-Length: 1\r\n\r\n2"):
        socket.connection.send(b"")
        socket.feed(response)
        body = await socket.connection.read_all(9, 9)
        assert socket.connection.is_reusable
    assert (body, socket.connection.requests) == (b"2", 2)
    assert socket.connection.headers == [(b"X-Mine", b"1"), (b"Content-Length", b"1")]


@pytest.mark.parametrize(
    "response",
    [
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        LENGTH_2 + b"hi" + LENGTH_2 + b"no",
        LENGTH_2 + b"hi?",
        b"HTTP/1.1 101 x\r\n\r\n",
    ],
)
async def test_a_connection_that_the_next_request_must_not_use(response: bytes) -> None:
    """The server closes it, or has sent more than was asked for."""
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(response)
    await socket.connection.read_all(9, 9)
    assert not socket.connection.is_reusable


async def test_an_early_answer_ends_the_connection() -> None:
    """The answer counts, and the server may never read the rest of the request."""
    socket = FakeSocket()
    socket.connection.send(b"head", b"x" * 100_000)
    socket.unsent = 50_000
    socket.feed(b"HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nhi")
    assert await socket.connection.read_all(9, 9) == b"hi"
    assert not socket.connection.is_reusable
    assert len(socket.written) == 100_004


async def test_an_early_answer_that_ends_with_the_connection_waits_for_nothing() -> None:
    """The transport waits for the rest of the request to be sent, in vain."""
    socket = FakeSocket()
    socket.connection.send(b"head", b"x" * 100_000)
    socket.feed(b"HTTP/1.1 413 x\r\n\r\nhi")
    socket.connection.eof_received()
    assert await socket.connection.read_all(9, 9) == b"hi"


async def test_bytes_on_an_idle_connection_close_it() -> None:
    """Often a 408; it must not be taken for the answer to the next request."""
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(LENGTH_2 + b"hi")
    await socket.connection.read_all(9, 9)
    socket.connection.is_busy = False
    socket.feed(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    assert socket.was_aborted
    with pytest.raises(httpx.ReadError, match="before the request was sent"):
        socket.connection.send(b"")


async def test_a_response_to_head_has_no_body() -> None:
    """Whatever its headers announce."""
    socket = FakeSocket()
    socket.connection.send(b"", head_only=True)
    socket.feed(OK + b"Content-Length: 99\r\n\r\n")
    await socket.connection.read_head()
    assert await socket.connection.read() == b""
    assert not socket.connection.is_reusable


async def test_a_stream_stops_reading_while_its_reader_is_busy() -> None:
    """What waits is bounded."""
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(CHUNKED)
    await socket.connection.read_head()
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    fed = 0
    while not socket.is_paused and fed < 10 * PAUSE_ABOVE_BYTES:
        socket.feed(piece)
        fed += 0x10000
    assert PAUSE_ABOVE_BYTES < fed <= PAUSE_ABOVE_BYTES + 0x10000
    assert len(await socket.connection.read()) == fed
    assert not socket.is_paused
    reading = asyncio.ensure_future(socket.connection.read())
    await asyncio.sleep(0)
    socket.feed(b"2\r\nhi\r\n")
    assert await reading == b"hi"
    socket.feed(b"0\r\n\r\n")
    assert await socket.connection.read() == b""
    assert socket.connection.is_reusable


async def test_a_connection_that_stopped_reading_is_not_reused() -> None:
    """Though the end came all the same: the next response would never be read."""
    socket = FakeSocket()
    socket.connection.send(b"")
    size = 2 * PAUSE_ABOVE_BYTES
    socket.feed(OK + b"Content-Length: %d\r\n\r\n" % (size + 1) + b"x" * size)
    assert socket.is_paused
    socket.feed(b"x")
    assert socket.connection.is_complete
    assert not socket.connection.is_reusable
    assert len(await socket.connection.read()) == size + 1
    assert not socket.is_paused
    assert socket.connection.is_reusable


async def test_a_stream_that_breaks_off_gives_what_came_first() -> None:
    """Then the error."""
    socket = FakeSocket()
    socket.connection.send(b"")
    socket.feed(CHUNKED + b"2\r\nhi\r\n")
    socket.lose()
    await socket.connection.read_head()
    assert await socket.connection.read() == b"hi"
    with pytest.raises(httpx.ReadError, match="in the middle"):
        await socket.connection.read()


async def test_a_lost_connection_keeps_no_parser() -> None:
    """The two refer to each other: only the garbage collector would free them."""
    socket = FakeSocket()
    assert len(held(socket.connection, HttpResponseParser)) == 1
    socket.lose()
    assert held(socket.connection, HttpResponseParser) == []
