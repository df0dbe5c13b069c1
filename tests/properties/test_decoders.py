"""Whatever a record or an answer holds, reading it ends in a message, an answer, or a refusal with a reason: nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents_io.errors import AgentError
from agents_io.grpc.rules.payload import fill_request
from agents_io.protocols.http_tasks.rules.orders import read_order, read_reply
from agents_io.rules.answer import Reading, parse_answer, reading_of
from agents_io.transport import Call
from schemas.codec import Rejected, decode, dumps, parse_json
from schemas.messages import (
    AgentRegistration,
    Aggregate,
    Anomaly,
    ConfidenceDataPoint,
    Control,
    Event,
    HomeState,
    Plan,
    PlanMemory,
    PlanResult,
    Result,
    Task,
)
from schemas.pb.confidence_pb2 import AgentRequest
from streams.dispatch.task_run import read_task
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.task_plans import origin_of
from streams.rules.plans.templates import read_plan, used
from streams.rules.source_record import SourceRecord
from streams.settings import Settings

SETTINGS = Settings()

MODELS: list[Any] = [
    Task, Plan, Control, AgentRegistration, ConfidenceDataPoint, Event, Result, PlanResult, Aggregate, Anomaly, HomeState,
    PlanMemory,
]  # fmt: skip
ODD = [
    "1e400", "-1e-400", "18446744073709551616", "9" * 308, "9" * 309, "9" * 5000, "-0", "-0.0", "1E5", "NaN",
    "1e99999999999999999999",
    "0." + "3" * 400, '"\\ud83d"', '"\\u0000"', '""', "null", "true", "[]", "{}", '"' + "x" * 300 + '"', "[[[[[[1]]]]]]",
    '{"id":{"id":{}}}', '"2026-11-22T13:37:00Z"', '"9999-99-99"', "253402300800000", "1.5",
]  # fmt: skip
TASK = {
    "id": "t", "type": "agent", "target": "a", "payload": {"n": 1}, "capabilities": ["c"], "planId": "p", "context": {"x": 1},
    "metadata": {"timeout": 5, "retries": 1, "priority": 1, "patternName": "p", "dependencies": ["u"], "cache": True,
                 "hedge": False,
                 "idempotencyKey": "k", "input": "a.b", "method": "GET", "headers": {"a": "b"}, "query": {"q": "1"}},
}  # fmt: skip
SAMPLES: list[tuple[Any, dict[str, Any]]] = [
    (Task, TASK),
    (Plan, {"id": "p", "kind": "dag", "tasks": [TASK, TASK | {"id": "u"}], "strategy": "all", "maxConcurrency": 1, "timeout": 5,
            "continueOnError": False, "metadata": {"confidenceThreshold": 0.5, "consensus": "vote"},
            "answers": {"accepted": 1, "expires": 2, "metadata": {}}}),
    (Control, {"type": "cancel", "taskId": "t", "reason": "r"}),
    (AgentRegistration, {"id": "a", "endpoint": "http://h", "protocol": "http", "capabilities": ["c"], "metadata": {"a": 1},
                         "limits": {"maxRequests": 1, "windowMs": 1}, "breaker": {"failureRate": 0.5}, "auth": {"env": "A"}}),
    (ConfidenceDataPoint, {"agentId": "a", "confidence": 0.5, "success": True, "timestamp": 1, "executionTime": 1.5}),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a JSON value can be replaced."""
    found = [path]
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        found += places(inner, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], text: str) -> bytes:
    """The sample with the JSON text in one place."""
    copy = json.loads(json.dumps(value))
    if not path:
        return text.encode()
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = "@here@"
    return json.dumps(copy).replace('"@here@"', text).encode()


def attempt(use: Callable[[], Any], *refusals: type[Exception]) -> Any:
    """What it returns; None if it is refused, with a reason of bounded length. Any other exception is a failure of the test."""
    reason = None
    try:
        return use()
    except refusals as error:
        reason = str(error)
    assert 0 < len(reason) <= 1000
    return None


def read(model: Any, raw: bytes | None, headers: Any = ()) -> Any:
    """The message, written and read again; or None."""
    message = attempt(lambda: decode(model, raw, headers), Rejected)
    if message is not None:
        written = attempt(lambda: dumps(message.wire()), Rejected)
        # A payload that is null is left out of `wire`.
        assert written is None or attempt(lambda: decode(model, written), Rejected) in (None, message)
    return message


@pytest.mark.parametrize(("model", "sample"), SAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_an_odd_value_in_any_place_is_a_message_or_a_refusal(model: Any, sample: dict[str, Any]) -> None:
    """Huge numbers, cut text, deep and wrong types; in the plan's and the task's own rules too."""
    for path in places(sample):
        for text in ODD:
            raw = changed(sample, path, text)
            read(model, raw)
            if model is Task:
                job(raw)
            if model is Plan:
                plan(raw)


def job(raw: bytes) -> None:
    """Dispatch reads a task; its agents' wires take it or refuse it."""
    found = attempt(lambda: read_task(SourceRecord("tasks", 0, 0, None, raw), 0.0, 0, SETTINGS), Rejected)
    if found is not None:
        given = found.task.metadata.model_dump(include={"headers", "query"})
        attempt(lambda: fill_request(AgentRequest(), Call("t", "t", found.body, 1.0)), AgentError)
        attempt(lambda: read_order(dumps({"url": "http://h/", "payload": 1} | given)), AgentError)


def plan(raw: bytes) -> None:
    """The coordinator reads a plan."""
    data = attempt(lambda: parse_json(raw), Rejected)
    if isinstance(data, dict):
        attempt(lambda: origin_of(data), Rejected)
        attempt(lambda: used(read_plan(data), {}), InvalidPlan)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**320), 10**320) | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "value", "data", "n"]), inner, max_size=3)
    ),
    max_leaves=8,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "ce_id", "ce_source", "traceparent", "x"]),
        st.sampled_from([b"application/cloudevents+json", b"application/cloudevents-batch+json", b"\xff", b""])
        | st.binary(max_size=10),
    ),
    max_size=3,
)  # fmt: skip


@given(st.sampled_from(MODELS), st.binary(max_size=60) | JSON.map(lambda data: json.dumps(data).encode()), HEADERS)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_in_any_envelope_are_a_message_or_a_refusal(model: Any, raw: bytes, headers: Any) -> None:
    """NaN and Infinity, which Python writes, included."""
    read(model, raw, headers)
    envelope = b'{"specversion":"1.0","data":%b}' % raw
    read(model, envelope, [("content-type", b"application/cloudevents+json")])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@pytest.mark.parametrize(
    ("begin", "end"), [(b"[", b"]"), (b'{"id":', b"}"), (b'{"payload":', b"}"), (b'["\\ud83d",', b"]")]
)
@pytest.mark.parametrize("depth", [200, 300, 1100, 100_000])
@pytest.mark.parametrize("inner", [b"1", b"18446744073709551616"])
def test_no_depth_reaches_the_stack(model: Any, begin: bytes, end: bytes, depth: int, inner: bytes) -> None:
    """Refused, or a message that can be written again."""
    read(model, begin * depth + inner + end * depth)
    read(model, b'{"id":"t","type":"agent","target":"a","payload":%b%b%b}' % (begin * depth, inner, end * depth))


PATHS: list[dict[str, Any]] = [
    {},
    {"valuePath": "sum([n, data])", "defaultConfidence": 0.5},
    {"valuePath": "sum(n)", "confidencePath": "avg(n)"},
    {"valuePath": "ceil(n[0])", "confidencePath": "none", "defaultConfidence": 1},
    {"valuePath": "n", "confidencePath": "floor(confidence)"},
]
READINGS = [reading_of(metadata) for metadata in PATHS]


@given(st.binary(max_size=60) | JSON.map(lambda data: json.dumps(data).encode()), st.sampled_from(READINGS))
def test_any_answer_is_an_answer_or_an_error_with_a_reason(raw: bytes, reading: Reading) -> None:
    """Confidences are numbers from 0 to 1, also where an expression computes them from numbers no float holds."""
    bodies = [raw, *(b'{"value":%b,"confidence":%b,"n":[%b]}' % ((text.encode(),) * 3) for text in ODD)]
    for use in (lambda body: parse_answer(body, reading), lambda body: read_reply(body, "application/json")):
        for body in bodies:
            answer = attempt(partial(use, body), AgentError)
            if answer is not None:
                assert 0 <= answer.confidence <= 1
                attempt(partial(dumps, answer.value), Rejected)
