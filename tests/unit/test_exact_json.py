"""Numbers keep their value through reading and writing; text cut inside a character is text."""

from __future__ import annotations

import copy
import json
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.exact_json import ExactFloat, dumps, loads, mend


def exact(raw: bytes) -> Any:
    """An independent reading: every number as a decimal."""
    return json.loads(raw, parse_int=Decimal, parse_float=Decimal)


DIGITS = st.text("0123456789", min_size=1, max_size=30)
WHOLE = st.builds(lambda sign, text: sign + (text.lstrip("0") or "0"), st.sampled_from(["", "-"]), DIGITS)
DECIMAL = st.builds(
    lambda whole, part, exponent: whole + part + exponent,
    WHOLE,
    st.just("") | DIGITS.map(lambda text: "." + text),
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E-", "e+", "e-0"]), st.integers(0, 350)),
)


@given(st.lists(WHOLE | DECIMAL, min_size=1, max_size=5), st.text(max_size=20))
@example(["18446744073709551616", "-9223372036854775809", "9007199254740993.0", "1e-400", "4.9e-324"], "")
@example(["0.1000000000000000055511151231257827", "12345678901234567890123e0", "-0.0", "1E5", "1e-0400"], "")
@example(["1", "0.30000000000000004", "1.2345678901234567e-05"], "1234567890123456789012")
def test_every_number_is_written_with_the_value_it_was_read_with(numbers: list[str], text: str) -> None:
    """Whatever its spelling; a decimal beyond every double is refused."""
    raw = b'{"text":%b,"numbers":[%b]}' % (orjson.dumps(text), ",".join(numbers).encode())
    beyond = [n for n in numbers if ("e" in n.lower() or "." in n) and abs(float(n)) == float("inf")]
    if beyond:
        with pytest.raises(ValueError, match="beyond the range of a double"):
            loads(raw)
        return
    written = dumps(loads(raw))
    assert exact(written) == exact(raw)
    assert dumps(loads(written)) == written


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_as_python_writes_them_are_plain_floats(number: float) -> None:
    """No program that writes doubles pays for the exact ones."""
    found = loads(json.dumps([number]).encode())
    assert [type(value) for value in found] == [float]
    assert found == [number]


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=10,
))  # fmt: skip
def test_what_python_writes_is_read_as_it_was(data: Any) -> None:
    """Types too."""
    raw = json.dumps(data, ensure_ascii=False).encode()
    assert loads(raw) == data
    assert loads(dumps(data)) == data
    assert json.loads(dumps(data)) == data


def test_integers_of_any_length_keep_their_digits() -> None:
    """Also those no double comes near, and those Python's own parser refuses to convert."""
    for digits in (20, 308, 309, 5000):
        raw = b"[-%b]" % (b"7" * digits)
        assert dumps(loads(raw)) == raw
    assert loads(b"18446744073709551617") == 2**64 + 1


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'"a \\ud83d"', "a \ufffd"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\ude00\\ud83d"', "\ufffd\ufffd"),
        (b'"\\ud83d\\ud83d\\ude00"', "\ufffd\U0001f600"),
        (b'"\\uD83D and 18446744073709551616"', "\ufffd and 18446744073709551616"),
        (b'"\\\\ud83d"', "\\ud83d"),
        (b'"\\\\\\ud83d"', "\\\ufffd"),
        (b'"\xed\xa0\xbd"', "\ufffd"),
        (b'"\xed\xa0\xbd\xed\xb8\x80"', "\U0001f600"),
        (b'"\xed\xa0\xbd\\ude00"', "\ufffd\ufffd"),
        (b'\xef\xbb\xbf"bom"', "bom"),
        ('"\ud83d"', "\ufffd"),
    ],
)
def test_half_a_pair_becomes_the_replacement_character(raw: bytes | str, text: str) -> None:
    """Escaped or as bytes; whole pairs and escaped backslashes stay."""
    assert loads(raw) == text
    assert loads(dumps({"k": [text]})) == {"k": [text]}


def test_names_are_mended_too_and_numbers_beside_them_stay_exact() -> None:
    """Of two equal names the last counts."""
    assert (
        dumps(loads(b'{"\\ud83d":18446744073709551616,"a":1,"a":2}')) == b'{"\xef\xbf\xbd":18446744073709551616,"a":2}'
    )
    assert dumps({"\ud83d": ("\ud83d",)}) == b'{"\xef\xbf\xbd":["\xef\xbf\xbd"]}'


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xef\xbb\xbf", b'"\xff"', b'"\\u', b'"\\ud8', b'"\\ud83d\\u12"', b"NaN", b"[18446744073709551616", b"\xff\xfe1\x00",
     b"18446744073709551616 x", b"-", b"[1e400]", b"[" * 5000 + b"]" * 5000, b'["\\ud83d",' * 3000 + b"1" + b"]" * 3000],
)  # fmt: skip
def test_what_is_not_json_is_a_value_error(raw: bytes) -> None:
    """And nothing else."""
    with pytest.raises(ValueError, match=r"."):
        loads(raw)


@pytest.mark.parametrize("data", [{1, 2}, object(), b"x", 10**5000, [[10**5000]]], ids=type)
def test_what_json_has_not_is_a_type_error(data: Any) -> None:
    """Never something else in its place."""
    with pytest.raises(TypeError):
        dumps(data)


def test_deep_data_is_a_type_error_also_with_large_integers() -> None:
    """Neither parser's stack is reached."""
    data: Any = 2**64
    for _ in range(5000):
        data = [data]
    with pytest.raises(TypeError):
        dumps(data)


def test_an_exact_float_computes_as_a_double_and_is_equal_by_value() -> None:
    """Copies keep the text."""
    one, other = ExactFloat("1.00000000000000000001"), ExactFloat("1.00000000000000000002")
    assert (one + 1, one == other, one == ExactFloat("1.000000000000000000010"), hash(one) == hash(1.0)) == (
        2.0,
        False,
        True,
        True,
    )
    assert [copy.deepcopy(one).text, pickle.loads(pickle.dumps(one)).text] == [one.text, one.text]  # noqa: S301
    assert mend("whole") == "whole"


def test_what_lies_between_users_and_agents_reads_and_writes_json_exactly() -> None:
    """`orjson.loads` and `orjson.dumps` change large numbers: these packages use `schemas.exact_json` or `schemas.codec`."""
    root = Path(__file__).parents[2]
    packages = (
        "schemas",
        "agents_io/rules",
        "streams/rules",
        "streams/dispatch",
        "streams/plans",
    )
    files = [file for package in packages for file in (root / package).rglob("*.py")]
    calls = re.compile(r"\borjson\.(loads|dumps)\(|\bjson\.(loads|dumps)\(")
    found = {str(file.relative_to(root)) for file in files if calls.search(file.read_text())}
    found -= {name for name in found if name.startswith("streams/rules/detection/")}
    assert len(files) > 60
    found -= {
        "schemas/contract.py",
        "streams/rules/engine/assignment_table.py",
    }  # schemas; what a group's leader deals out
    assert found == {"schemas/exact_json.py"}
