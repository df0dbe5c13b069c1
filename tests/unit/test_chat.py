"""Chat completions as data: whatever a server sends is an answer or one clear error."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.errors import AgentError, ClientError
from agents_io.protocols.openai.rules.chat import chat_answer, chat_request, spent
from agents_io.protocols.openai.rules.config import chat_config
from agents_io.rules.answer import Reading
from agents_io.rules.waits import reset_s, span_s
from agents_io.transport import Answer
from tests.support.ends import end_of

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just('{"value":1,"confidence":0.5}'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "finish_reason", "usage", "text", "refusal", "tool_calls"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["json_schema", "none"]), st.sampled_from([None, 0.5]))
def test_whatever_a_server_sends_is_an_answer_or_one_clear_error(body: Any, form: str, default: float | None) -> None:
    """Also in the places where an answer would be."""
    for said in (body, {"choices": [{"message": body, "finish_reason": "stop"}]}):
        end = end_of(lambda said=said: chat_answer(orjson.dumps(said), form, Reading(default=default)))  # type: ignore[misc]
        assert isinstance(end, (Answer, AgentError))


def test_content_in_parts_is_one_text() -> None:
    """As some gateways answer."""
    parts = [{"type": "text", "text": '{"value":1,'}, {"type": "text", "text": '"confidence":0.5}'}]
    body = orjson.dumps({"choices": [{"message": {"content": parts}}]})
    assert chat_answer(body, "json_schema", Reading()).value == 1


@pytest.mark.parametrize("text", ["", "1x", "s", "1s1", "-1s", "1e9", "9" * 70, "\u0661s"])
def test_what_is_no_span_is_none(text: str) -> None:
    """Headers are not trusted."""
    assert span_s(text) is None


def test_longest_reset_of_the_limits_that_are_used_up() -> None:
    """Both must be open for the next call."""
    headers = {f"x-ratelimit-remaining-{kind}": "0" for kind in ("requests", "tokens")}
    headers |= {"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "1m"}
    assert reset_s(headers) == 60.0


@pytest.mark.parametrize(
    ("body", "is_spent"),
    [
        (b'{"error":{"code":"insufficient_quota"}}', True),
        (b'{"error":{"type":"insufficient_quota","code":null}}', True),
        (b'{"error":{"code":"rate_limit_exceeded"}}', False),
        (b'{"error":"slow down"}', False),
        (b'{"error":{"code":["x"]}}', False),
        (b"slow down", False),
    ],
)
def test_quota_that_is_spent_is_no_rate_limit(body: bytes, is_spent: bool) -> None:
    """No waiting mends it."""
    assert isinstance(spent(429, body), ClientError) is is_spent
    assert not is_spent or str(spent(403, body)).startswith("the agent answered 403")


def test_registration_cannot_take_over_what_is_ours() -> None:
    """Members given by name stand above `request`, and the messages above all."""
    config = chat_config({"model": "m", "temperature": 1, "request": {"temperature": 0, "logit_bias": {}}})
    said = orjson.loads(chat_request(config, "hi"))
    assert (said["temperature"], said["logit_bias"], said["messages"][1]["content"]) == (1, {}, "hi")
