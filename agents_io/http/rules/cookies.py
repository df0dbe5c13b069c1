"""The cookies of one agent: a load balancer binds a session to one server with them. Pure.

In: the headers of its answers. Out: the `Cookie` header of the next request. One jar belongs to one agent, whose
requests all go to one origin; paths are not distinguished. At most `MAX_COOKIES` are kept, the oldest is dropped first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

MAX_COOKIES = 20
MAX_COOKIE_BYTES = 4096
_PAIR = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256})=([\x21-\x3a\x3c-\x7e]*)")


class CookieJar:
    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def learn(self, headers: Iterable[tuple[bytes, bytes]], now_epoch_s: float) -> None:
        """Take over every `set-cookie` among the headers; one that has expired is removed.

        >>> jar = CookieJar()
        >>> jar.learn([(b"Set-Cookie", b"lb=1; Path=/; HttpOnly"), (b"set-cookie", b"b=2; Max-Age=0")], 0.0)
        >>> jar.header()
        b'lb=1'
        """
        for name, value in headers:
            if name.lower() == b"set-cookie" and len(value) <= MAX_COOKIE_BYTES:
                self._take(value, now_epoch_s)

    def _take(self, text: bytes, now_epoch_s: float) -> None:
        first, *attributes = (part.strip() for part in text.split(b";"))
        pair = _PAIR.fullmatch(first)
        if pair is None:
            return
        self._kept.pop(pair[1], None)
        if not _is_over(attributes, now_epoch_s):
            self._kept[pair[1]] = pair[2]
            if len(self._kept) > MAX_COOKIES:
                del self._kept[next(iter(self._kept))]

    def header(self) -> bytes:
        """The value of the `Cookie` header."""
        return b"; ".join(name + b"=" + value for name, value in self._kept.items())


def _is_over(attributes: list[bytes], now_epoch_s: float) -> bool:
    """Whether the cookie has expired. `Max-Age` takes precedence over `Expires` (RFC 6265, 5.3)."""
    found = {name.strip().lower(): value.strip() for name, _, value in (part.partition(b"=") for part in attributes)}
    age = found.get(b"max-age", b"")
    if age.lstrip(b"-").isdigit():
        return age.startswith(b"-") or int(age) == 0
    try:
        expires = found.get(b"expires")
        return expires is not None and parsedate_to_datetime(expires.decode("ascii")).timestamp() <= now_epoch_s
    except (ValueError, TypeError, OverflowError, UnicodeDecodeError):
        return False
