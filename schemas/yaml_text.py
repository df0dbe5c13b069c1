"""JSON-able values as YAML text that both YAML 1.1 and 1.2 read back as the same values. Pure.

In: dicts with text keys, lists, text, finite numbers, booleans, None. Out: block style, two spaces, one way only, so that equal
values make equal files. Never wraps a line, writes no anchors, tags or comments; what is not plainly a word is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_WORDS = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$/-]*( [A-Za-z0-9_.$/-]+)*")
_OTHER_KINDS = frozenset(("true", "false", "yes", "no", "on", "off", "y", "n", "null"))
_BREAKS_OR_UNSEEN = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def to_yaml(value: Any) -> str:
    r"""The whole document.

    >>> print(to_yaml({"a": ["no", 1, {"b": {}, "c": "two words"}], "d: e": "x\ny"}), end="")
    a:
      - "no"
      - 1
      - b: {}
        c: two words
    "d: e": "x\ny"
    """
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    if not value or not isinstance(value, (dict, list)):
        yield _scalar(value)
    elif isinstance(value, list):
        for item in value:
            mark = "- "
            for line in _lines(item):
                yield mark + line
                mark = "  "
    else:
        for key, item in value.items():
            if item and isinstance(item, (dict, list)):
                yield f"{_text(key)}:"
                yield from ("  " + line for line in _lines(item))
            else:
                yield f"{_text(key)}: {_scalar(item)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    text = json.dumps(value, allow_nan=False)
    # YAML 1.1 takes a number with an exponent but no point for text.
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def _text(text: str) -> str:
    if _WORDS.fullmatch(text) and text.lower() not in _OTHER_KINDS:
        return text
    return _BREAKS_OR_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
