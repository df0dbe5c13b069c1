"""A2A as data: cards of both versions, parts, confidences beside the answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.errors import AgentError, BadResponse
from agents_io.rules.answer import Reading, compile_path
from agents_io.rules.wire.a2a import Pending, outcome, send_params
from agents_io.rules.wire.a2a_card import Card, read_card
from agents_io.transport import Answer
from tests.support.ends import end_of


def task(*parts: dict[str, Any], state: str = "completed", **more: Any) -> dict[str, Any]:
    """A response holding a finished 0.3 task with one artifact."""
    artifacts = [{"artifactId": "a", "parts": list(parts)} | more.pop("artifact", {})]
    return {"id": 1, "result": {"kind": "task", "id": "t", "status": {"state": state}, "artifacts": artifacts} | more}


def test_card_of_both_versions_prefers_the_newer() -> None:
    """A card may name an interface of each."""
    rows = [
        {"url": "grpc://h", "protocolBinding": "GRPC", "protocolVersion": "1.0"},
        {"url": "https://h/old", "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
        {"url": "https://h/new?x=1", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        {"url": "https://h/newest", "protocolBinding": "JSONRPC", "protocolVersion": "1.1"},
    ]
    card = read_card(orjson.dumps({"name": "n", "supportedInterfaces": rows}))
    assert (card.version, card.path) == ("1.0", "/new?x=1")


def test_card_of_0_3_with_a_further_interface() -> None:
    """The preferred one is not JSON-RPC."""
    further = [{"transport": "JSONRPC", "url": "http://h/rpc"}]
    card = {
        "url": "http://h/g",
        "preferredTransport": "GRPC",
        "additionalInterfaces": further,
        "protocolVersion": "0.3.0",
    }
    assert read_card(orjson.dumps(card)).path == "/rpc"


@pytest.mark.parametrize(
    ("message", "value", "confidence"),
    [
        (task({"kind": "data", "data": {"value": 1, "confidence": 0.5}}), 1, 0.5),
        (task({"kind": "text", "text": '{"value":1,'}, {"kind": "text", "text": '"confidence":0.5}'}), 1, 0.5),
        (task({"kind": "text", "text": "hi"}, metadata={"confidence": 0.5}), "hi", 0.5),
        (task({"kind": "text", "text": "hi"}, artifact={"metadata": {"https://e/x": {"confidence": 0.5}}}), "hi", 0.5),
        (task({"kind": "text", "text": "hi", "metadata": {"confidence": 0.5}}), "hi", 0.5),
        (task({"text": "[draft] {x}"}, metadata={"confidence": 1}), "[draft] {x}", 1.0),
        (
            task({"text": "see"}, {"url": "http://f", "mediaType": "image/png"}, metadata={"confidence": 1}),
            ["see", {"url": "http://f", "mediaType": "image/png"}],
            1.0,
        ),
        (task({"kind": "file", "file": {"uri": "u"}}, metadata={"confidence": 1}), [{"uri": "u"}], 1.0),
    ],
)
def test_value_and_confidence_of_a_finished_task(message: Any, value: Any, confidence: float) -> None:
    """Data as it is, text as JSON if it is JSON, files by reference."""
    found = outcome(message, Reading())
    assert isinstance(found, Answer)
    assert (found.value, found.confidence) == (value, confidence)


def test_status_message_stands_in_for_missing_artifacts() -> None:
    """Some agents answer there."""
    status = {"state": "TASK_STATE_COMPLETED", "message": {"parts": [{"data": {"value": 2, "confidence": 1}}]}}
    found = outcome({"id": 1, "result": {"task": {"id": "t", "status": status}}}, Reading())
    assert isinstance(found, Answer)
    assert found.value == 2


def test_paths_look_into_the_whole_task() -> None:
    """Wherever the agent puts them."""
    reading = Reading(
        compile_path("valuePath", "artifacts[0].parts[0].text"), compile_path("confidencePath", "metadata.p")
    )
    found = outcome(task({"kind": "text", "text": "x"}, metadata={"p": 0.25}), reading)
    assert found == Answer("x", 0.25)


def test_truncated_json_answer_is_no_plain_text() -> None:
    """It was meant as an answer."""
    with pytest.raises(BadResponse, match="not JSON"):
        outcome(task({"kind": "text", "text": '{"value":1,"confidence":0.9'}), Reading(default=0.5))


def test_task_under_way_needs_an_id() -> None:
    """Else nobody could ask for it."""
    assert outcome(task(state="working"), Reading()) == Pending("t")
    with pytest.raises(BadResponse, match="no id"):
        outcome(task(state="working", id=""), Reading())


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "result",
                    "task",
                    "message",
                    "status",
                    "state",
                    "parts",
                    "artifacts",
                    "text",
                    "data",
                    "error",
                    "code",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_whatever_an_agent_sends_is_an_answer_or_one_clear_error(message: Any) -> None:
    """Never anything else."""
    assert isinstance(end_of(lambda: outcome(message, Reading(default=0.5))), (Answer, Pending, AgentError))


@given(_JSON)
def test_whatever_lies_where_the_card_should_is_a_card_or_one_clear_error(card: Any) -> None:
    """Also with lists where texts should be."""
    for body in (card, {"supportedInterfaces": card}, {"url": card, "skills": [card], "additionalInterfaces": card}):
        assert isinstance(end_of(lambda body=body: read_card(orjson.dumps(body))), (Card, AgentError))  # type: ignore[misc]


def test_what_is_no_object_goes_as_text_in_both_versions() -> None:
    """0.3 knows objects only as data."""
    for version in ("1.0", "0.3"):
        params = send_params(version, "m", [1], blocking=True, text_only=False)  # type: ignore[arg-type]
        assert params["message"]["parts"][0]["text"] == "[1]"
        assert "contextId" not in params["message"]
        params = send_params(version, "m", [1], blocking=True, text_only=False, context_id="c")  # type: ignore[arg-type]
        assert params["message"]["contextId"] == "c"
