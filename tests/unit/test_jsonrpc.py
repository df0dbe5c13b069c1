"""JSON-RPC: which message answers, and what an error means."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents_io.errors import AgentError, BadResponse, ClientError, ServerError
from agents_io.rules import jsonrpc


@pytest.mark.parametrize(
    ("message", "answers"),
    [
        ({"id": 1, "result": {}}, True),
        ({"id": 2, "result": {}}, False),
        ({"id": None, "error": {}}, True),
        ({"id": 1, "method": "sampling/createMessage"}, False),
        ({"method": "notifications/progress"}, False),
        ([], False),
        (None, False),
    ],
)
def test_only_the_response_to_our_request_answers_it(message: Any, answers: bool) -> None:
    """A server's own request may bear the same number."""
    assert jsonrpc.answers(message, 1) is answers


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"id": 1, "error": {"code": -32600, "message": "x"}}, ClientError),
        ({"id": 1, "error": {"code": -32000}}, ServerError),
        ({"id": 1, "error": {"code": "boom", "message": None}}, ServerError),
        ({"id": 1, "error": {"code": [-32600]}}, ServerError),
        ({"id": 1, "result": 3}, BadResponse),
        ({"id": 1}, BadResponse),
        ([1], BadResponse),
    ],
)
def test_what_is_no_result_is_one_clear_error(message: Any, error: type[AgentError]) -> None:
    """Of the right kind, short and printable."""
    with pytest.raises(error) as caught:
        jsonrpc.result_of(message)
    assert caught.value.message.isprintable()


def test_notification_has_no_id() -> None:
    """Nothing answers it."""
    assert "id" not in orjson.loads(jsonrpc.notification("n", {}))
