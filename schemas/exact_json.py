"""JSON that keeps the value of every number, and accepts text that was cut in the middle of a character. Pure.

orjson silently reads integers beyond 64 bits and decimals beyond a double's digits as the nearest double. `loads` scans
a document for such numbers (about 1 us for 300 bytes) and takes the slow way only if there are any: integers become
Python's own, decimals that a double cannot hold become an `ExactFloat`, which keeps its text. `dumps` writes both back.

Decided, and tested: the value of a number is kept, not its spelling (`1E5` is written `100000.0`, `-0` is written `0`,
`-0.0` stays). Of two equal names in an object the last one counts. A decimal larger than any double (`1e400`) is
refused. Half a surrogate pair, escaped or as bytes, becomes U+FFFD, and a byte order mark at the start is skipped:
JavaScript and Python cut text inside an emoji. All other bytes that are not UTF-8 are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from math import isinf
from typing import Any

import orjson

MAX_PYTHON_DIGITS = 308
"""An integer with more digits is an `ExactFloat`: every other one can still be converted to a float."""
MAX_SHOWN = 40

_SHAPE = bytes(
    48 if chr(code) in "0123456789." else 101 if chr(code) in "eE" else 45 if code == 45 else 32 for code in range(256)
)
"""Digits and points become 0, exponents e, everything else except minus a space."""
_LONG = b"0" * 16
_SMALL = b"0e-000"
_RISKY = re.compile(rb"[-0-9][0-9.]{15,}(?:[eE][-+]?[0-9]+)?")
_RISKY_SMALL = re.compile(rb"[-0-9][0-9.]*[eE]-[0-9]{3,}")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|(u[dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class ExactFloat(float):
    """A number that a double only approximates. It computes like that double; `text` is the number as it was
    written.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> ExactFloat:
        """`text`: a JSON number."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __eq__(self, other: object) -> bool:
        """Two of them are equal if their values are. Compared with any other number, it is its double."""
        if isinstance(other, ExactFloat):
            return _value(self.text) == _value(other.text)
        return float.__eq__(self, other) if isinstance(other, (int, float)) else NotImplemented

    def __hash__(self) -> int:
        """The hash of its double."""
        return float.__hash__(self)

    def __reduce__(self) -> tuple[type[ExactFloat], tuple[str]]:
        """Copies and pickles keep the text."""
        return ExactFloat, (self.text,)


def loads(raw: bytes | str) -> Any:
    """The value of a JSON document. Raises `ValueError` (`json.JSONDecodeError` where it is not JSON).

    >>> loads(b'{"account": 18446744073709551617}')
    {'account': 18446744073709551617}
    >>> dumps(loads(b'[0.12345678901234567891, 1E5]'))
    b'[0.12345678901234567891,100000.0]'
    """
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _lenient(raw, error)
    if isinstance(raw, str):
        raw = raw.encode()
    shape = raw.translate(_SHAPE)
    if _LONG in shape and not _held(_RISKY.findall(raw)):
        return _exact(raw.decode())
    if _SMALL in shape and not _held(_RISKY_SMALL.findall(raw)):
        return _exact(raw.decode())
    return data


def dumps(data: Any, option: int | None = None, default: Callable[[Any], Any] | None = None) -> bytes:
    """Compact JSON; `option`, `default`: as in orjson. Raises `TypeError` for types that JSON does not have, or too
    deep nesting.

    >>> dumps({"n": 2**64, "text": "cut \\ud83d"})
    b'{"n":18446744073709551616,"text":"cut \\xef\\xbf\\xbd"}'
    """
    written = _written if default is None else partial(_written, default=default)
    try:
        return orjson.dumps(data, written, option)
    except TypeError:
        return orjson.dumps(_writable(data, 0), written, option)


def loads_lines(text: str) -> Any:
    """As `loads`, but accepts line breaks and other control characters within strings, which models leave there. Raises
    `ValueError`.
    """
    try:
        return _LINES.decode(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None


def mend(text: str) -> str:
    """The text with halves of surrogate pairs joined or replaced by U+FFFD.

    >>> mend("\\ud83d\\ude00 and \\ud83d") == "\U0001f600 and \ufffd"
    True
    """
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _held(numbers: list[bytes]) -> bool:
    """Whether orjson writes these numbers as they are here: most programs write doubles in their shortest form."""
    found = b"[%b]" % b",".join(numbers)
    try:
        # Python pads exponents and signs them, orjson does not.
        return orjson.dumps(orjson.loads(found)) == found.replace(b"e-0", b"e-").replace(b"e+", b"e")
    except orjson.JSONDecodeError:  # digits within a string
        return False


def _lenient(raw: bytes | str, error: orjson.JSONDecodeError) -> Any:
    """Reads what orjson refuses: a byte order mark, half a surrogate pair, a number beyond every double. Anything else
    is not JSON.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise error from None
    text = mend(_ESCAPE.sub(_joined, text.removeprefix("\ufeff")))
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as again:
        if "infinity" not in str(again):
            raise again from None
    data = _exact(text)
    if (found := _infinite(data, "")) is not None:
        raise ValueError(found)
    return data


def _joined(match: re.Match[str]) -> str:
    """Replaces halves of surrogate pairs in an escape; whole pairs and everything else stay."""
    whole = match[0]
    if len(whole) > 2 and match[1] is None:
        return "\ufffd"
    return whole


def _exact(text: str) -> Any:
    """JSON read by Python's own parser, which gives each number's text to the functions below."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None


def _whole(text: str) -> int | float:
    if len(text) <= MAX_PYTHON_DIGITS:
        return int(text)
    return ExactFloat(text)


def _decimal(text: str) -> float:
    number = float(text)
    shortest = repr(number)
    return number if shortest == text or (not isinf(number) and _value(shortest) == _value(text)) else ExactFloat(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_decimal, parse_int=_whole, parse_constant=_refuse)
_LINES = json.JSONDecoder(parse_float=_decimal, parse_int=_whole, parse_constant=_refuse, strict=False)


def _value(text: str) -> tuple[bool, str, str | int]:
    """Sign, digits and exponent: equal for equal numbers in any spelling, and fast for every exponent.

    >>> _value("-1.50e3") == _value("-1500"), _value("0.0") == _value("0e9"), _value("1e400") == _value("2e400")
    (True, True, False)
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, part = mantissa.lstrip("-").partition(".")
    digits = (whole + part).lstrip("0")
    bare = digits.rstrip("0")
    if not bare:
        return text[:1] == "-", "", 0
    if len(exponent) > 18:  # beyond every realistic number
        return text[:1] == "-", digits, f"{exponent}|{len(part)}"
    return text[:1] == "-", bare, int(exponent or 0) - len(part) + len(digits) - len(bare)


def _infinite(data: Any, where: str) -> str | None:
    """A sentence that names the first decimal beyond every double, and its place."""
    if isinstance(data, ExactFloat):
        if isinf(data) and not data.text.lstrip("-").isdigit():
            return f"{where or 'value'}: the number {data.text[:MAX_SHOWN]} is beyond the range of a double"
        return None
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, (dict, list, ExactFloat)) and (found := _infinite(value, f"{where}.{key}"[-200:])):
                return found.removeprefix(".")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            if isinstance(value, (dict, list, ExactFloat)) and (found := _infinite(value, f"{where}.{number}"[-200:])):
                return found.removeprefix(".")
    return None


def _written(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    if isinstance(value, ExactFloat):
        return orjson.Fragment(value.text)
    if default is None:
        raise TypeError
    return default(value)


def _writable(data: Any, depth: int) -> Any:
    """A copy in which integers beyond 64 bits are their text, and broken text is mended."""
    if isinstance(data, bool):
        return data
    if isinstance(data, int):
        if -(2**63) <= data < 2**64:
            return data
        try:
            return orjson.Fragment(str(int(data)))
        except ValueError:  # Python writes 4,300 digits
            raise TypeError("an integer has too many digits") from None
    if isinstance(data, str):
        return mend(data)
    if depth > 260:  # orjson stops before
        raise TypeError("is nested too deep")
    if isinstance(data, dict):
        return {
            _writable(key, depth) if isinstance(key, str) else key: _writable(v, depth + 1) for key, v in data.items()
        }
    if isinstance(data, (list, tuple)):
        return [_writable(value, depth + 1) for value in data]
    return data
