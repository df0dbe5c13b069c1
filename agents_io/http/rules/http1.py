"""HTTP/1.1 as a client writes and frames it (RFC 9112). Pure.

In: the parts of a request, or the head of a response. Out: the bytes of a request's head, or how the response's body ends.
Parsing itself is llhttp's. ValueError for a header that would end its own line or start another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""Methods that may be sent again when a reused connection turns out to be closed (RFC 9110, 9.2.2)."""
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def header_line(name: bytes, value: bytes) -> bytes:
    r"""One header line. Raises ValueError.

    >>> header_line(b"Host", b"agent:80")
    b'Host: agent:80\r\n'
    >>> header_line(b"X", b"1\r\nY: 2")
    Traceback (most recent call last):
    ValueError: a header of the request holds a control character
    """
    if _CONTROL.search(name) or _CONTROL.search(value):
        raise ValueError("a header of the request holds a control character")
    return b"%b: %b\r\n" % (name, value)


def request_line(method: bytes, target: bytes) -> bytes:
    r"""The first line of a request. Raises ValueError.

    >>> request_line(b"POST", b"/analyze")
    b'POST /analyze HTTP/1.1\r\n'
    """
    if not method.isalpha() or _CONTROL.search(target) or b" " in target:
        raise ValueError("the request line holds a space or a control character")
    return b"%b %b HTTP/1.1\r\n" % (method, target)


def request_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    r"""Everything before the body. Raises ValueError.

    >>> request_head(b"GET", b"/", [(b"Host", b"h")])
    b'GET / HTTP/1.1\r\nHost: h\r\n\r\n'
    """
    return b"".join((request_line(method, target), *(header_line(*pair) for pair in headers), b"\r\n"))


def is_interim(status: int) -> bool:
    """Whether another response follows (1xx). 101 is final: the connection speaks another protocol from then on.

    >>> is_interim(103), is_interim(101), is_interim(200)
    (True, False, False)
    """
    return 100 <= status < 200 and status != 101


def ends_with_connection(headers: Headers) -> bool:
    """Whether a body that llhttp has not seen the end of is complete when the server closes the connection (RFC 9112, 6.3).

    >>> ends_with_connection([(b"Server", b"x")]), ends_with_connection([(b"content-length", b"9")])
    (True, False)
    >>> ends_with_connection([(b"Transfer-Encoding", b"gzip, chunked")])
    False
    """
    codings = b""
    has_length = False
    for name, value in headers:
        name = name.lower()
        if name == b"transfer-encoding":
            codings += b"," + value
        elif name == b"content-length":
            has_length = True
    if codings:
        return codings.rpartition(b",")[2].strip().lower() != b"chunked"
    return not has_length


def content_length(headers: Headers) -> int | None:
    """The length a response states, None for none or one that is not a number.

    >>> content_length([(b"Content-Length", b"12")])
    12
    """
    for name, value in headers:
        if name.lower() == b"content-length":
            value = value.strip()
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None
