"""MCP as data: results, versions, header values."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.errors import AgentError, Unsupported
from agents_io.protocols.mcp.rules import tool_calls
from agents_io.rules.answer import Reading
from agents_io.transport import Answer
from tests.support.ends import end_of

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just('{"value":1,"confidence":0.5}'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["content", "type", "text", "structuredContent", "isError", "_meta", "confidence", "value"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["content", "structuredContent", "isError", "_meta", "resultType"]), _JSON))
def test_whatever_a_tool_gives_is_an_answer_or_one_clear_error(result: dict[str, Any]) -> None:
    """With and without a default."""
    for reading in (Reading(), Reading(default=0.5)):
        end = end_of(lambda reading=reading: tool_calls.tool_answer(result, reading))  # type: ignore[misc]
        assert isinstance(end, (Answer, AgentError))


def test_blocks_that_are_no_text_are_kept_as_they_are() -> None:
    """An image, a link."""
    blocks = [{"type": "text", "text": "see"}, {"type": "resource_link", "uri": "file:///x"}]
    assert tool_calls.tool_answer({"content": blocks}, Reading(default=1.0)).value == blocks


@given(st.text(min_size=1, max_size=30))
def test_any_tool_name_fits_the_header_and_is_read_back(name: str) -> None:
    """Plain where it can be, base64 between marks where not."""
    value = tool_calls.header_value(name)
    assert all(32 <= byte < 127 for byte in value)
    marked = value.startswith(b"=?base64?") and value.endswith(b"?=")
    assert (base64.b64decode(value[9:-2]) if marked else value).decode() == name


@pytest.mark.parametrize(
    ("error", "modern"),
    [
        ({"code": -32022, "data": {"supported": ["2026-07-28"]}}, True),
        ({"code": -32022, "data": {"supported": ["2027-01-01"]}}, False),
        ({"code": -32601}, True),
        ({"code": -32000, "message": "Unauthorized"}, False),
        (None, False),
    ],
)
def test_which_errors_hint_at_a_server_without_handshake(error: dict[str, Any] | None, modern: bool) -> None:
    """Only then another way is tried."""
    assert tool_calls.speaks_modern(error) is modern


def test_version_that_is_none_is_said() -> None:
    """In the error's sentence."""
    with pytest.raises(Unsupported, match="None"):
        tool_calls.negotiated({})
