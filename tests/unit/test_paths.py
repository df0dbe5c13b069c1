"""JMESPath within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from agents_io.errors import BadResponse, Unsupported
from agents_io.rules import paths
from agents_io.rules.answer import Reading, compile_path, parse_answer
from agents_io.rules.paths import compiled, select
from schemas.exact_json import dumps, loads


@pytest.mark.parametrize(
    "expression",
    [
        "[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]",
        "[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]",
        "map(&[@,@,@,@,@,@,@], map(&[@,@,@,@,@,@,@], @))",
        "{a: [@,@,@,@,@,@,@,@], b: @}.[a,a,b,b,a]",
        "join(a, b)",
        'join(`"' + "x" * 40 + '"`, b)',
        "to_string([to_string([to_string([@])])])",
        "a" * 1025,
        "a[",
        "nothing(@)[",
        "",
        "(" * 500 + "a" + ")" * 500,
    ],
)
def test_an_expression_that_may_blow_up_is_refused(expression: str) -> None:
    """Before it sees any data; and what a registration names so is the registration's fault."""
    with pytest.raises(ValueError, match=r"\w"):
        compiled(expression)
    with pytest.raises(Unsupported, match=r"metadata\.valuePath: .") as caught:
        compile_path("valuePath", expression)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 150


@pytest.mark.parametrize(
    ("expression", "data", "found"),
    [
        ("a.b[0]", {"a": {"b": [7]}}, 7),
        ("items[?ok].{name: name, score: scores[-1]}", {"items": [{"ok": True, "name": "x", "scores": [1]}]},
         [{"name": "x", "score": 1}]),
        ("join(', ', names)", {"names": ["a", "b"]}, "a, b"),
        ("to_string(a)", {"a": [1]}, "[1]"),
        ("max_by(items, &s).n", {"items": [{"s": 1, "n": "a"}, {"s": 2, "n": "b"}]}, "b"),
        ("[a,b,c,d,e,f,g,h]", {}, [None] * 8),
        ("nowhere", {}, None),
    ],
)  # fmt: skip
def test_what_people_write_works(expression: str, data: Any, found: Any) -> None:
    """Projections, filters, functions."""
    assert select(compiled(expression), data) == found


def test_what_is_selected_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are shared count each time; what does not fit the data is told."""
    monkeypatch.setattr(paths, "MAX_SELECTED", 1000)
    assert len(select(compiled("[@,@,@]"), "x" * 300)) == 3
    with pytest.raises(ValueError, match="selects more than 1000 bytes"):
        select(compiled("[@,@,@,@]"), "x" * 300)
    with pytest.raises(ValueError, match=r"\w"):
        select(compiled("abs(@)"), "x")
    reading = Reading(value=compile_path("valuePath", "[v,v,v,v]"))
    with pytest.raises(BadResponse, match=r"metadata\.valuePath does not fit"):
        parse_answer(b'{"confidence": 1, "v": "' + b"x" * 300 + b'"}', reading)


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("max(@)", "[18446744073709551617, 18446744073709551618]", "18446744073709551618"),
        ("sum(@)", "[18446744073709551617, 1]", "18446744073709551618"),
        ("sum(@)", "[0.12345678901234567891, 1]", "1.1234567890123457"),
        ("sort(@)[0]", "[0.12345678901234567891, 1]", "0.12345678901234567891"),
        ("[?@ > `0`]", "[0.12345678901234567891]", "[0.12345678901234567891]"),
        ("[?@ == `18446744073709551617`]", "[18446744073709551617, 18446744073709551618]", "[18446744073709551617]"),
    ],
)
def test_numbers_no_double_holds_are_numbers(expression: str, text: str, found: str) -> None:
    """Selected with every digit; what is computed from long decimals is a double."""
    assert dumps(select(compiled(expression), loads(text))) == found.encode()


@pytest.mark.parametrize(
    ("expression", "data"),
    [("ceil(@)", float("inf")), ("floor(@)", loads("9" * 309)), ("ceil(to_number('nan'))", 1), ("avg(@)", [10**400])],
)
def test_arithmetic_that_fails_does_not_fit_the_data(expression: str, data: Any) -> None:
    """Where Python has another exception."""
    with pytest.raises(ValueError, match=r"\w"):
        select(compiled(expression), data)
