"""A2A as data: cards of both versions, parts, confidences beside the answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.errors import AgentError, BadResponse, ClientError, ServerError, Unsupported
from agents_io.protocols.a2a.rules.bindings import refusal, response
from agents_io.protocols.a2a.rules.card import Card, Interface, read_card
from agents_io.protocols.a2a.rules.tasks import (
    NotOffered,
    OtherVersion,
    Pending,
    UnknownTask,
    WrongParts,
    outcome,
    send_params,
)
from agents_io.rules.answer import Reading, compile_path
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
    assert card.interfaces == (Interface("1.0", "JSONRPC", "/new?x=1"), Interface("0.3", "JSONRPC", "/old"))


def test_card_of_0_3_with_a_further_interface() -> None:
    """The preferred one is not JSON-RPC."""
    further = [{"transport": "JSONRPC", "url": "http://h/rpc"}]
    card = {
        "url": "http://h/g",
        "preferredTransport": "GRPC",
        "additionalInterfaces": further,
        "protocolVersion": "0.3.0",
    }
    assert read_card(orjson.dumps(card)).interfaces == (Interface("0.3", "JSONRPC", "/rpc"),)


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


@pytest.mark.parametrize("role", ["agent", "ROLE_AGENT"])
def test_the_agents_last_message_stands_in_for_a_missing_answer(role: str) -> None:
    """Agents that only report progress leave their answer there; what the user said last is no answer."""
    said = {"role": role, "parts": [{"data": {"value": 2, "confidence": 1}}]}
    asked = {"role": "user", "parts": [{"text": "4"}]}
    ended = task(artifacts=[], history=[asked, said])
    found = outcome(ended, Reading())
    assert isinstance(found, Answer)
    assert found.value == 2
    with pytest.raises(BadResponse, match="no parts"):
        outcome(task(artifacts=[], history=[said, asked]), Reading(default=0.5))


def test_a_path_may_lead_where_no_answer_was_looked_for() -> None:
    """A finished task without artifacts."""
    reading = Reading(compile_path("valuePath", "metadata.v"), default=0.5)
    assert outcome(task(artifacts=[], metadata={"v": 7}), reading) == Answer(7, 0.5, {"v": 7})


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


@given(_JSON, st.sampled_from(["1.0", "0.3"]), st.sampled_from([200, 400, 404, 415, 500, 501]))
def test_whatever_comes_by_http_json_is_an_answer_or_one_clear_error(message: Any, version: Any, status: int) -> None:
    """Never anything else."""
    way = Interface(version, "HTTP+JSON", "/")
    end = end_of(lambda: outcome(response(way, message), Reading(default=0.5)))
    assert isinstance(end, (Answer, Pending, AgentError))
    for what in ("send", "get"):
        assert isinstance(refusal(way, what, status, orjson.dumps(message)), AgentError | None)  # type: ignore[arg-type]


PLAIN = {"parts": [{"text": "a"}, {"data": {"b": 1}}]}
PROTO = {"content": [{"text": "a"}, {"data": {"data": {"b": 1}}}]}
PROTO_ARTIFACT = {"artifactId": "a", "parts": [{"data": {"data": {"b": 1}}}]}
PLAIN_ARTIFACT = {"artifactId": "a", "parts": [{"data": {"b": 1}}]}


@pytest.mark.parametrize(
    ("proto", "plain"),
    [
        ({"message": PROTO}, PLAIN | {"kind": "message"}),
        (
            {"task": {"id": "t", "status": {"state": "S", "message": PROTO}, "artifacts": [PROTO_ARTIFACT, 7]}},
            {"id": "t", "status": {"state": "S", "message": PLAIN}, "artifacts": [PLAIN_ARTIFACT, 7], "kind": "task"},
        ),
        ({"id": "t", "status": {"message": PROTO}}, {"id": "t", "status": {"message": PLAIN}}),
        (
            {"statusUpdate": {"taskId": "t", "status": {"message": PROTO}, "final": True}},
            {"taskId": "t", "status": {"message": PLAIN}, "final": True, "kind": "status-update"},
        ),
        (
            {"artifactUpdate": {"taskId": "t", "artifact": PROTO_ARTIFACT}},
            {"taskId": "t", "artifact": PLAIN_ARTIFACT, "kind": "artifact-update"},
        ),
        # Servers that send the form of JSON-RPC all the same: `data` within their data is the agent's own.
        (
            {"kind": "message", "parts": [{"kind": "data", "data": {"data": {"b": 1}}}]},
            {"kind": "message", "parts": [{"kind": "data", "data": {"data": {"b": 1}}}]},
        ),
        (
            {"message": {"content": [{"data": {"data": {"data": 1}}}]}},
            {"parts": [{"data": {"data": 1}}], "kind": "message"},
        ),
    ],
)
def test_the_form_of_0_3_over_http_json(proto: Any, plain: Any) -> None:
    """The JSON of its a2a.proto, as JSON-RPC has it."""
    assert response(Interface("0.3", "HTTP+JSON", "/"), proto) == {"result": plain}


def test_a_message_nested_without_end_is_read_all_the_same() -> None:
    """As deep as JSON may be."""
    nested: Any = {}
    for _ in range(1020):
        nested = {"message": nested}
    assert isinstance(
        end_of(lambda: outcome(response(Interface("0.3", "HTTP+JSON", "/"), nested), Reading())), AgentError
    )


@pytest.mark.parametrize(
    ("status", "body", "what", "kind", "said"),
    [
        (400, {"error": {"details": [{"reason": "UNSUPPORTED_OPERATION"}], "message": "m"}}, "send", NotOffered, "TION: 'm'"),
        (400, {"error": {"details": [{"reason": "CONTENT_TYPE_NOT_SUPPORTED"}]}}, "send", WrongParts, "CONTENT_TYPE"),
        (404, {"error": {"details": [7, {"reason": "TASK_NOT_FOUND"}]}}, "get", UnknownTask, "TASK_NOT_FOUND"),
        (404, {"code": -32001, "message": "gone"}, "get", UnknownTask, "'gone'"),  # a2a-js, 0.3
        (404, {"message": "gone"}, "get", UnknownTask, "404"),  # a2a-sdk, 0.3
        (404, {"detail": "Not Found"}, "get", ServerError, "404"),
        (404, b"<html>", "stream", OtherVersion, "404"),
        (415, {"message": "text only"}, "send", WrongParts, "text only"),
        (501, {"message": "no"}, "send", NotOffered, "501"),
        (422, {"error": {"details": [{"reason": "INVALID_PARAMS"}]}}, "send", ClientError, "INVALID_PARAMS"),
        (400, {"error": {"details": "x", "code": 400}}, "send", None, ""),
        (400, [1], "send", None, ""),
        (503, {"error": {"details": [{"reason": "INTERNAL_ERROR"}]}}, "send", None, ""),
        (401, {"error": {"details": [{"reason": "INVALID_REQUEST"}]}}, "send", None, ""),
    ],
)  # fmt: skip
def test_refusals_over_http_json(status: int, body: Any, what: Any, kind: Any, said: str) -> None:
    """None: the status says it all."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    found = refusal(Interface("1.0", "HTTP+JSON", "/"), what, status, raw)
    assert type(found) is (kind or type(None))
    assert found is None or (found.status == status and said in found.message)
    absent = status == 404 and what in ("send", "stream")
    over_json_rpc = refusal(Interface("1.0", "JSONRPC", "/"), what, status, raw)
    assert type(over_json_rpc) is (OtherVersion if absent else type(None))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h/agents/prüfer?q=ä b", "/agents/pr%C3%BCfer?q=%C3%A4%20b"),
        ("http://h/agents/pr%C3%BCfer", "/agents/pr%C3%BCfer"),
        ("rpc", "/rpc"),
        ("http://h", "/"),
        ("\ufffd", "/%EF%BF%BD"),
    ],
)
def test_a_cards_url_may_hold_letters_that_are_to_be_escaped(url: str, path: str) -> None:
    """Only its path is taken, and that as a URL has it."""
    card = read_card(orjson.dumps({"name": "n", "url": url, "protocolVersion": "0.3.0"}))
    assert card.interfaces[0].path == path


def test_a_version_that_became_a_number() -> None:
    """In YAML."""
    for version, spoken in ((0.3, "0.3"), (1.0, "1.0")):
        card = read_card(orjson.dumps({"name": "n", "url": "http://h/", "protocolVersion": version}))
        assert card.interfaces[0].version == spoken


@pytest.mark.parametrize("code", [[], {}, None, "x", 1.5, True])
def test_an_error_whose_code_is_none_is_the_agents_failure(code: Any) -> None:
    """Of any JSON."""
    with pytest.raises(ServerError, match="without a code"):
        outcome({"error": {"code": code, "message": "m"}}, Reading())


def test_a_stream_that_fails_names_the_status() -> None:
    """a2a-sdk gives neither reason nor code for an exception of the executor."""
    event = {"error": {"code": 500, "status": "INTERNAL", "message": "unknown exception"}}
    end = end_of(lambda: outcome(response(Interface("1.0", "HTTP+JSON", "/"), event), Reading()))
    assert type(end) is ServerError
    assert end.message == "the agent answered 'INTERNAL': 'unknown exception'"


def test_a_card_of_grpc_alone_is_refused_in_clear_words() -> None:
    """Of both versions."""
    for card in (
        {"supportedInterfaces": [{"url": "h:1", "protocolBinding": "GRPC", "protocolVersion": "1.0"}]},
        {"url": "h:1", "preferredTransport": "GRPC", "protocolVersion": "1.0"},
    ):
        end = end_of(lambda card=card: read_card(orjson.dumps(card)))  # type: ignore[misc]
        assert isinstance(end, Unsupported)
        assert end.message == (
            "the agent card names no JSONRPC or HTTP+JSON interface of A2A 1.0 or 0.3, only 'GRPC 1.0'; "
            "A2A over gRPC is not supported"
        )


def test_card_lists_what_we_speak_in_the_order_to_try() -> None:
    """Newest version first, then as the card has it; without a version it is 1.0, perhaps 0.3."""
    rows = [
        {"url": "https://h/0", "protocolBinding": "HTTP+JSON", "protocolVersion": "0.3"},
        {"url": "https://h/1", "protocolBinding": "http+json", "tenant": "t"},
        {"url": "https://h/2", "protocolBinding": "JSONRPC"},
        {"url": "https://h/3", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
    ]
    body = orjson.dumps({"name": "n", "supportedInterfaces": rows})
    assert read_card(body).interfaces == (
        Interface("1.0", "HTTP+JSON", "/1", "t"),
        Interface("1.0", "JSONRPC", "/2"),
        Interface("0.3", "HTTP+JSON", "/0"),
        Interface("0.3", "JSONRPC", "/2"),
        Interface("0.3", "HTTP+JSON", "/0", plain=True),
    )
    assert [row.path for row in read_card(body, "JSONRPC").interfaces] == ["/2", "/2"]


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
