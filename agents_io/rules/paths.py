"""JMESPath expressions with bounds: the expression is weighed before it runs, its result after. Pure.

In: an expression from a registration or a task, and JSON. Out: the selection, or a ValueError with the reason.

JMESPath itself has no bounds: `[@,@][]|[@,@][]|...` doubles with every step, `join` multiplies two parts of an answer,
`to_string` escapes escapes. Here an expression may make its input at most `MAX_GROWTH` times as large, and may select
at most `MAX_SELECTED` bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import jmespath
import jmespath.functions
from jmespath.exceptions import JMESPathError

from schemas.exact_json import ExactFloat

MAX_EXPRESSION = 1024
MAX_GROWTH = 32
MAX_SELECTED = 4 * 1024 * 1024
MAX_DEPTH = 128
# JMESPath uses the name of a value's class.
jmespath.functions.TYPES_MAP[ExactFloat.__name__] = "number"
jmespath.functions.REVERSE_TYPES_MAP["number"] += (ExactFloat.__name__,)
_ESCAPED = 6
"""Bytes that `to_string` may make of one character."""


class Path(Protocol):
    """A compiled JMESPath expression."""

    def search(self, value: Any) -> Any:
        """The selection; None if there is nothing."""
        ...


@lru_cache(maxsize=512)
def compiled(expression: str) -> Path:
    """The expression, compiled once. Raises ValueError.

    >>> compiled("a.b").search({"a": {"b": 1}})
    1
    >>> compiled("[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]")
    Traceback (most recent call last):
    ValueError: may make its input more than 32 times as large
    """
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"is longer than {MAX_EXPRESSION} characters")
    try:
        made: Any = jmespath.compile(expression)
    except JMESPathError as error:
        raise ValueError(f"is not JMESPath: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if _growth(made.parsed) > MAX_GROWTH:
        raise ValueError(f"may make its input more than {MAX_GROWTH} times as large")
    path: Path = made
    return path


def select(path: Path, data: Any) -> Any:
    """The selection; None if there is nothing. Raises ValueError: it does not fit the data, or selects too much.

    >>> select(compiled("[a, b]"), {"a": 1})
    [1, None]
    """
    try:
        found = path.search(data)
    except (JMESPathError, RecursionError, ArithmeticError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    if isinstance(found, (dict, list)) and _weight(found) > MAX_SELECTED:
        raise ValueError(f"selects more than {MAX_SELECTED} bytes, or something nested too deep")
    return found


def _growth(node: Any) -> int:
    """An upper bound of how many times as large as its input the result can be."""
    parts = [_growth(child) for child in node["children"] if isinstance(child, dict)]
    if node["type"] in ("multi_select_list", "multi_select_dict"):
        return sum(parts)
    most = 1
    for part in parts:
        most *= max(1, part)
    if node["type"] != "function_expression":
        return most
    if node["value"] == "join":
        separator = node["children"][0]
        return most * (len(str(separator["value"])) + 1 if separator["type"] == "literal" else MAX_GROWTH + 1)
    return most * _ESCAPED if node["value"] == "to_string" else most


def _weight(value: Any) -> int:
    """Approximate bytes as JSON; counting stops at the cap. Shared parts count each time."""
    weight = 0
    level = [value]
    for _ in range(MAX_DEPTH + MAX_GROWTH):
        below: list[Any] = []
        for node in level:
            weight += 1
            if isinstance(node, dict):
                weight += sum(len(key) for key in node)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, str):
                weight += len(node)
            if weight + len(below) > MAX_SELECTED:
                return MAX_SELECTED + 1
        if not below:
            return weight
        level = below
    return MAX_SELECTED + 1
