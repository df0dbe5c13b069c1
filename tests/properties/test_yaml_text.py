"""What is written as YAML is read back as the same values."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.yaml_text import to_yaml

TEXT = st.text(max_size=20) | st.sampled_from(
    ["yes", "NO", "null", "~", "1e5", "0x1", "1:20", "a: b", "a #b", "- a", "<<", "="]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


@given(VALUES)
@example({"a": [[], {}, [[1, [2]], {"b": [{"c": 1e300}]}]], "": "\x85\u2028\ufeff\x7f", "d": 1e-7})
@example([2026, "2026-11-22", "2026-11-22T13:37:00.123Z", "😀", "tab\t", "back\\slash", "two\nlines", "trailing "])
def test_a_reader_of_yaml_1_1_finds_the_same_values(value: Any) -> None:
    """1.1 takes more words for something else than 1.2 does, so it is the harder one."""
    assert yaml.safe_load(to_yaml(value)) == value


@given(VALUES)
def test_equal_values_make_equal_text(value: Any) -> None:
    """The committed file changes only when the contract does."""
    assert to_yaml(yaml.safe_load(to_yaml(value))) == to_yaml(value)
