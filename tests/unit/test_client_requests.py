"""What a client writes, and how it reads results: records, times, plans, errors."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas.codec import Rejected, decode
from schemas.messages import ErrorCode, Plan, Task
from streams.broker.client import task_key
from streams.client.errors import InvalidTask, TaskFailed, failure_of
from streams.client.history import sent_again
from streams.client.mapping import Tolerance
from streams.client.parsing import parse_value
from streams.client.plans import dag, parallel, plan_request, sequence, step
from streams.client.requests import cancel_requests, encode, task_request
from streams.client.result import TaskResult, read_result
from streams.client.times import duration_ms, moment_ms, since_ms

RESULT: dict[str, Any] = {
    "taskId": "t1",
    "status": "success",
    "result": {"n": 1},
    "confidence": 0.9,
    "executionTime": 5,
    "retries": 0,
    "cached": False,
    "timestamp": "2026-11-22T13:37:00.123Z",
    "metadata": {},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@dataclasses.dataclass
class Point:
    x: int


class Model(BaseModel):
    day: date


def failed(code: str, **more: Any) -> TaskResult[Any]:
    error = {"code": code, "message": "no", "retryable": True}
    wire = RESULT | {"status": "failure", "result": None, "error": error} | more
    return read_result(json.dumps(wire).encode())


@given(JSON)
def test_any_json_payload_arrives_as_it_was(payload: Any) -> None:
    request = task_request("t1", "a1", payload)
    assert decode(Task, request.value).payload == payload
    assert (request.key, request.agent) == (b"a1", True)


def test_models_dataclasses_and_sets_are_json_and_nothing_becomes_null() -> None:
    assert json.loads(encode([Point(1), Model(day=date(2026, 1, 2)), {3}])) == [{"x": 1}, {"day": "2026-01-02"}, [3]]
    for bad in (float("nan"), [1, {"x": float("inf")}], object(), 10**5000):
        with pytest.raises(InvalidTask):
            task_request("t1", "a1", bad)
    assert json.loads(encode({"x": None})) == {"x": None}


def test_times_go_into_the_metadata() -> None:
    when = datetime(2026, 11, 22, 13, 37, tzinfo=UTC)
    request = task_request(
        "t", "a", 1, timeout=1.5, deadline=when, expires_in="2m", metadata={"pattern_name": "p", "mine": 1}
    )
    assert json.loads(request.value)["metadata"] == {
        "patternName": "p",
        "mine": 1,
        "timeout": 1500,
        "deadline": "2026-11-22T13:37:00.000Z",
        "expiresIn": 120_000,
    }
    for wrong in ({"timeout": 0}, {"timeout": "soon"}, {"deadline": datetime(2026, 1, 1)}, {"deadline": 1e13}):  # noqa: DTZ001
        with pytest.raises(InvalidTask, match=next(iter(wrong))):
            task_request("t", "a", 1, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timout", "timeout"),
        ("time_out", "timeout"),
        ("expiresin", "expires_in"),
        ("orderingkeys", "ordering_key"),
        ("contextid", "context_id"),
        ("retry", "retries"),
        ("max_retries", "retries"),
    ],
)
def test_a_misspelt_option_is_no_metadata(name: str, meant: str) -> None:
    with pytest.raises(InvalidTask, match=rf"^{name}: is no option; did you mean {meant}\?"):
        task_request("t", "a", 1, metadata={name: 1})
    assert json.loads(task_request("t", "a", 1, metadata={"metadata": {name: 1}}).value)["metadata"] == {name: 1}


def test_metadata_of_ones_own_and_wire_names_are_no_misspelt_options() -> None:
    names = ["tenant", "user_id", "trace", "tag", "context", "attempt", "kind", "source", "model", "label", "session"]
    own = dict.fromkeys(names, 1) | {"expiresIn": 5, "orderingKey": "k", "retryOf": "x", "confidence_threshold": 0.5}
    found = json.loads(task_request("t", "a", 1, metadata=own).value)["metadata"]
    assert found == {name: value for name, value in own.items() if name[0] != "c" or name == "context"} | {
        "confidenceThreshold": 0.5
    }


def test_steps_and_plans_take_times_as_run_does() -> None:
    when = datetime(2026, 11, 22, 13, 37, tzinfo=UTC)
    one = step("a", 1, timeout=1, deadline=when, expires_in=60, not_before="2026-11-22T13:00:00Z", tag="x")
    plan = parallel([one], strategy="weighted", expires_in="2m", confidence_threshold=0.5)
    assert plan["tasks"][0]["metadata"] == {
        "timeout": 1000,
        "deadline": "2026-11-22T13:37:00.000Z",
        "expiresIn": 60_000,
        "notBefore": "2026-11-22T13:00:00.000Z",
        "tag": "x",
    }
    assert plan["metadata"] == {"expiresIn": 120_000, "confidenceThreshold": 0.5}
    with pytest.raises(InvalidTask, match="timeout: must be between 1 ms and 7 days"):
        parallel([step("a", 1, timeout=0)])
    with pytest.raises(InvalidTask, match="expires_in: is not a duration"):
        sequence([step("a", 1, expires_in="soon")])


@pytest.mark.parametrize(
    ("target", "kind", "wire", "key"),
    [
        ("a1", None, {"type": "agent", "target": "a1"}, b"a1"),
        ("function:f", None, {"type": "function", "target": "f"}, b"t"),
        ("f", "function", {"type": "function", "target": "f"}, b"t"),
        ("pattern:p", None, {"type": "pattern", "target": "p"}, b"t"),
        ("https://x/y", None, {"type": "http", "target": "https://x/y"}, b"t"),
    ],
)
def test_types_and_keys(target: str, kind: Any, wire: dict[str, str], key: bytes) -> None:
    request = task_request("t", target, {}, kind=kind)
    assert json.loads(request.value) == {"id": "t", "payload": {}} | wire
    assert request.key == key


def test_a_task_nobody_would_accept_is_refused() -> None:
    for arguments in (("", "a", 1), ("t", None, 1), ("t", "", 1), ("t" * 300, "a", 1), ("t", 5, 1)):
        with pytest.raises(InvalidTask):
            task_request(*arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match="retries"):
        task_request("t", "a", 1, metadata={"retries": "many"})


def test_durations_and_moments() -> None:
    assert duration_ms("250ms", "x") == 250
    assert moment_ms("1970-01-01T00:00:01Z", "x") == 1000
    assert since_ms(datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC), 0) == 2000
    assert since_ms(timedelta(days=1), 1000) == 0
    for bad in (True, None, float("nan"), "x", -1):
        with pytest.raises(InvalidTask, match="x"):
            duration_ms(bad, "x")  # type: ignore[arg-type]


def test_every_code_has_its_error_and_new_ones_are_plain() -> None:
    for code in get_args(ErrorCode):
        error = failure_of(failed(code))
        assert type(error) is TaskFailed.by_code[code], code
        assert (error.code, error.retryable, error.result.task_id) == (code, True, "t1")
    assert set(TaskFailed.by_code) == set(get_args(ErrorCode))
    newer = failed("quantum_flux", futureField=[1])
    assert newer.error is not None
    assert newer.error.message == "quantum_flux: no"
    again = pickle.loads(pickle.dumps(failure_of(failed("expired"))))  # noqa: S301 - our own bytes
    assert (type(again).__name__, again.code) == ("TaskExpired", "expired")


def test_results_in_all_forms() -> None:
    structured = {"specversion": "1.0", "id": "1", "data": RESULT}
    headers = [("content-type", b"application/cloudevents+json")]
    assert read_result(json.dumps(structured).encode(), headers).value == {"n": 1}
    for bad in (b"", b"{", b"[]", b'{"taskId": 1}', None):
        with pytest.raises(Rejected):
            read_result(bad)


def test_a_value_that_is_none_or_false_after_validation_stays() -> None:
    result = read_result(json.dumps(RESULT | {"result": 0}).encode())
    assert parse_value(result, bool).value is False
    nothing = read_result(json.dumps(RESULT | {"result": None}).encode())
    assert parse_value(nothing, type(None)).value is None


def test_builders_make_plans_the_pipeline_accepts() -> None:
    plans = [
        parallel([step("a", 1), step("b", 2, timeout=1)], strategy="race", max_concurrency=3, timeout="1m", id="p"),
        sequence(
            [step("a", 1, id="first"), step(None, 2, capabilities=["x"], input="results.first")], continue_on_error=True
        ),
        dag({"a": step("a"), "b": step("b", after=["a"], retries=0)}, consensus="vote"),
    ]
    read = [decode(Plan, plan_request(plan).value) for plan in plans]
    assert [plan.kind for plan in read] == ["parallel", "sequential", "dag"]
    assert [task.id for task in read[1].tasks] == ["first", "1"]
    assert read[2].tasks[1].metadata.dependencies == ["a"]
    assert (read[0].id, read[0].timeout, read[0].max_concurrency) == ("p", 60_000, 3)
    for bad in (
        lambda: plan_request(dag({"a": step("a", after=["b"]), "b": step("b", after=["a"])})),
        lambda: plan_request(parallel([])),
        lambda: plan_request(parallel([step("a"), step("b", id="0")])),
        lambda: step("a", after="b"),
    ):
        with pytest.raises(InvalidTask):
            bad()


def test_a_retry_names_the_first_id_and_leaves_the_plan() -> None:
    task = {"id": "t1", "type": "agent", "target": "a", "payload": 1, "planId": "p", "metadata": {"mine": 2}}
    again = sent_again(task, "t2", 0)
    assert json.loads(again.value) == {
        "id": "t2",
        "type": "agent",
        "target": "a",
        "payload": 1,
        "metadata": {"mine": 2, "retryOf": "t1"},
    }
    assert json.loads(sent_again(json.loads(again.value), "t3", 0).value)["metadata"]["retryOf"] == "t1"


def test_a_task_whose_deadline_has_passed_is_not_sent_again() -> None:
    task = {"id": "t1", "type": "agent", "target": "a", "payload": 1, "metadata": {"deadline": "2026-11-22T14:37:00Z"}}
    assert sent_again(task, "t2", 1_795_358_219_999)
    with pytest.raises(InvalidTask, match=r"task t1: metadata\.deadline: 2026-11-22T14:37:00Z has passed"):
        sent_again(task, "t2", 1_795_358_220_000)


def test_cancels() -> None:
    both = [json.loads(one.value) for one in cancel_requests("t", "why")]
    assert both == [
        {"type": "cancel", "taskId": "t", "reason": "why"},
        {"type": "cancel", "planId": "t", "reason": "why"},
    ]


def outcomes(count: int, failures: int) -> Iterator[bool]:
    yield from (number < failures for number in range(count))


@pytest.mark.parametrize(
    ("share", "failures", "stops"),
    [(0.0, 0, False), (0.0, 1, True), (0.1, 10, False), (0.1, 11, True), (1.0, 100, False)],
)
def test_tolerance(share: float, failures: int, stops: bool) -> None:
    known = Tolerance(share, 100)
    assert any([known.too_many(one) for one in outcomes(100, failures)]) == stops
    unknown = Tolerance(share, None)
    assert (any([unknown.too_many(one) for one in outcomes(100, failures)]) or unknown.exceeded) == stops


def test_tolerance_must_be_a_share() -> None:
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidTask, match="tolerate"):
            Tolerance(bad, None)


@pytest.mark.parametrize(("target", "key"), [("a1", b"a1"), (None, b"chat-7"), ("function:double", b"chat-7")])
def test_tasks_of_an_ordering_key_go_to_one_partition(target: str | None, key: bytes) -> None:
    """That of their agent, or if they name none that of the key."""
    capabilities = None if target else ["sum"]
    request = task_request("t", target, 1, capabilities=capabilities, metadata={"ordering_key": "chat-7"})
    assert request.key == key
    assert json.loads(request.value)["metadata"] == {"orderingKey": "chat-7"}
    assert task_key(Task.model_validate_json(request.value)) == key


@pytest.mark.parametrize("key", ["", "x" * 257, 5])
def test_an_ordering_key_is_text_of_bounded_length(key: Any) -> None:
    """Refused before it is sent."""
    with pytest.raises(InvalidTask, match="orderingKey"):
        task_request("t", "a1", 1, metadata={"ordering_key": key})
