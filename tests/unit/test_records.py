"""Every record dispatch writes: valid by model and by published schema, a complete CloudEvent, the same each time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from jsonschema import Draft202012Validator

import schemas
from schemas.codec import decode, header
from schemas.contract import file_name
from schemas.messages import ConfidenceDataPoint, ErrorCode, Event, EventType, Message, Result, Task, TaskError
from schemas.partitioning import partition_for
from schemas.times import format_time
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.records import LARGE_BYTES, Carried, Output
from streams.rules.source_record import (
    AGENT_HEADER,
    ATTEMPTS_HEADER,
    EXPIRES_HEADER,
    HOPS_HEADER,
    MOVED_HEADER,
    ORIGIN_HEADER,
    OWN_HEADERS,
    TASK_HEADER,
    SourceRecord,
    own_header,
)
from streams.rules.task_records import EchoedMetadata, Success, Timing

NOW_MS = 1_795_354_620_123
RECORDER = DispatchRecorder(app_id="app", processor="dispatch", prefix="t.", group="app-dispatch")
MODELS: dict[str, type[Message]] = {"results": Result, "events": Event, "data-points": ConfidenceDataPoint}
DIRECTORY = Path(schemas.__file__).parent / "json"
VALIDATORS = {
    topic: Draft202012Validator(orjson.loads((DIRECTORY / file_name(model)).read_bytes()))
    for topic, model in MODELS.items()
}
PLAIN = Task.model_validate({"id": "t1", "type": "agent", "target": "a1", "payload": {"n": 1}})
PLANNED = Task.model_validate(
    {
        "id": "t/ü 2",
        "type": "agent",
        "capabilities": ["c"],
        "payload": None,
        "planId": "p1",
        "metadata": {"patternName": "triage"},
    }
)
TASKS = [pytest.param(PLAIN, id="plain"), pytest.param(PLANNED, id="planned")]
ANSWERS = [b"null", b'"ok"', b'{"a":[1,2.5,{"b":null}]}', b"[]", b"0", b'"' + b"x" * (LARGE_BYTES + 1) + b'"']
SPENTS = [Timing(0.0), Timing(1234.56789, 2, 12.3456)]
ECHO: EchoedMetadata = {"mine": "kept", "timeout": 5}
LARGE_ECHO = {"mine": "y" * 900_000}
STATUSES = {"timeout": "timeout", "expired": "timeout", "cancelled": "cancelled"}


def error_of(code: str, agent_id: str | None = "a1") -> TaskError:
    """An error as a result carries it."""
    return TaskError.model_validate({"code": code, "message": "why", "retryable": True, "agentId": agent_id})


def forms(outputs: Iterable[Output]) -> Iterable[Output]:
    """The outputs and every smaller form of theirs."""
    for output in outputs:
        form: Output | None = output
        while form is not None:
            yield form
            form = form.fallback


def check(outputs: Iterable[Output]) -> dict[str, dict[str, Any]]:
    """Each is valid twice over and a complete CloudEvent; returns the values by topic (events by their type)."""
    found: dict[str, dict[str, Any]] = {}
    for output in forms(outputs):
        assert output.value is not None
        data = orjson.loads(output.value)
        assert list(VALIDATORS[output.topic].iter_errors(data)) == []
        decode(MODELS[output.topic], output.value, output.headers)
        names = [name for name, _ in output.headers]
        assert sorted(names) == sorted(
            ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type"]
        )
        headers = dict(output.headers)
        assert headers["ce_specversion"] == b"1.0"
        assert headers["ce_source"] == b"/parallax/app/dispatch"
        assert headers["content-type"] == b"application/json"
        assert headers["ce_time"].decode() == data["timestamp"] == format_time(NOW_MS)
        assert headers["ce_id"]
        assert headers["ce_subject"]
        assert output.partition is None
        found.setdefault(data["type"] if output.topic == "events" else output.topic, data)
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cached", [False, True])
def test_a_success_is_a_result_an_event_and_a_point(task: Task, cached: bool) -> None:
    """For every kind of answer; a cached one has no data point, because no agent spoke."""
    for answer, spent in [(answer, spent) for answer in ANSWERS for spent in SPENTS]:
        outputs = RECORDER.succeeded(task, ECHO, "a1", Success(answer, 0.75), spent, cached, NOW_MS)
        found = check(outputs)
        assert set(found) == {"results", "task:completed"} | (set() if cached else {"data-points"})
        result = found["results"]
        assert result["status"] == "success"
        assert result["result"] == orjson.loads(answer)
        assert (result["taskId"], result.get("planId")) == (task.id, task.plan_id)
        assert (result["confidence"], result["agentId"], result["cached"]) == (0.75, "a1", cached)
        assert (result["executionTime"], result["retries"]) == (round(spent.execution_ms, 3), spent.retries)
        assert result["metadata"] == {"mine": "kept", "timeout": 5}
        assert found["task:completed"]["data"]["result"] == orjson.loads(answer)
        if not cached:
            point = found["data-points"]
            assert (point["agentId"], point["taskId"], point["taskType"]) == ("a1", task.id, "agent")
            assert (point["confidence"], point["success"]) == (0.75, True)
            assert point["patternName"] == (task.metadata.pattern_name or "")
            assert point["executionTime"] == round(spent.execution_ms if spent.call_ms is None else spent.call_ms, 3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("code", get_args(ErrorCode))
def test_a_failure_is_a_result_and_an_event(task: Task, code: str) -> None:
    """For every code; a data point only if an agent spoke."""
    for agent_id, spoke in ((None, False), ("a1", False), ("a1", True), (None, True)):
        ended = {"expired": "task:expired", "cancelled": "task:cancelled"}.get(code, "task:failed")
        ended = {"expired": "task:expired", "cancelled": "task:cancelled"}.get(code, "task:failed")
        found = check(RECORDER.failed(task, ECHO, error_of(code, agent_id), SPENTS[1], NOW_MS, spoke))
        assert set(found) == {"results", ended} | ({"data-points"} if spoke and agent_id else set())
        result = found["results"]
        assert result["status"] == STATUSES.get(code, "failure")
        assert result["error"]["code"] == code
        assert result.get("agentId") == agent_id
        assert (result["retries"], result["cached"]) == (2, False)
        assert result["metadata"] == {"mine": "kept", "timeout": 5}
        assert found[ended]["data"]["error"] == result["error"]
        if "data-points" in found:
            assert (found["data-points"]["success"], found["data-points"]["confidence"]) == (False, 0.0)


@pytest.mark.parametrize("kind", get_args(EventType))
def test_every_type_of_event_is_valid(kind: EventType) -> None:
    """Named as CloudEvents types are: dots, underscores, a version."""
    output = RECORDER.event(kind, "s", {"taskId": "s"}, NOW_MS, tail="/2")
    assert set(check([output])) == {kind}
    ce_type = header(output.headers, "ce_type") or ""
    assert ce_type == f"io.parallax.{kind.replace(':', '.').replace('-', '_')}.v1"
    assert header(output.headers, "ce_id") == orjson.loads(output.value or b"")["id"] == f"s/{kind}/2"


def test_the_same_end_gives_the_same_records() -> None:
    """Ids are made of the task, not drawn: an event that is sent twice is one event, and unlike every other of its task."""
    ends = [
        RECORDER.succeeded(PLAIN, ECHO, "a1", Success(b"1", 0.5), SPENTS[0], False, NOW_MS),
        RECORDER.failed(PLAIN, ECHO, error_of("timeout"), SPENTS[0], NOW_MS, True),
        [RECORDER.event("task:retrying", "t1", {}, NOW_MS, tail=f"/{attempt}") for attempt in (1, 2)],
        RECORDER.dead_letter(SourceRecord("tasks", 0, 7, None, b"x"), "decode", "why", NOW_MS),
        RECORDER.dead_letter(SourceRecord("tasks", 1, 7, None, b"x"), "decode", "why", NOW_MS),
    ]
    again = DispatchRecorder(app_id="app", processor="dispatch", prefix="t.", group="app-dispatch")
    assert ends[0] == again.succeeded(PLAIN, ECHO, "a1", Success(b"1", 0.5), SPENTS[0], False, NOW_MS)
    assert ends[3] == again.dead_letter(SourceRecord("tasks", 0, 7, None, b"x"), "decode", "why", NOW_MS)
    ids = [header(output.headers, "ce_id") for output in chain(*ends) if output.topic == "events"]
    assert len(set(ids)) == len(ids) == 6


def test_keys_put_what_belongs_together_into_one_partition() -> None:
    """Results by plan if there is one, events by subject, points by agent."""
    plain = RECORDER.succeeded(PLAIN, ECHO, "a1", Success(b"1", 0.5), SPENTS[0], False, NOW_MS)
    assert [(output.topic, output.key) for output in plain] == [
        ("results", b"t1"),
        ("events", b"t1"),
        ("data-points", b"a1"),
    ]
    planned = RECORDER.failed(PLANNED, ECHO, error_of("timeout"), SPENTS[0], NOW_MS)
    assert [output.key for output in planned] == [b"p1", "t/ü 2".encode()]


def test_a_large_answer_carries_smaller_forms() -> None:
    """The result becomes a `too_large` failure, the event loses its answer; both are small then, and a small one has none."""
    large = b'"' + b"x" * 900_000 + b'"'
    result, completed, point = RECORDER.succeeded(PLAIN, ECHO, "a1", Success(large, 0.5), SPENTS[1], False, NOW_MS)
    assert result.fallback is not None
    assert completed.fallback is not None
    assert point.fallback is None
    failure = check([result.fallback])["results"]
    assert (failure["status"], failure["error"]["code"], failure["error"]["agentId"]) == ("failure", "too_large", "a1")
    assert str(len(large)) in failure["error"]["message"]
    assert failure["metadata"] == {"mine": "kept", "timeout": 5}
    shorn = check([completed.fallback])["task:completed"]
    assert "result" not in shorn["data"]
    assert shorn["data"]["confidence"] == 0.5
    assert shorn["id"] == orjson.loads(completed.value or b"")["id"]
    for form in (result.fallback, completed.fallback):
        assert len(form.value or b"") < LARGE_BYTES
        assert form.key == b"t1"
    small = RECORDER.succeeded(PLAIN, ECHO, "a1", Success(b"1", 0.5), SPENTS[1], False, NOW_MS)
    assert [output.fallback for output in small] == [None] * 3


@pytest.mark.parametrize("answer", [b"1", b'"' + b"x" * 900_000 + b'"'], ids=["small", "large"])
@pytest.mark.parametrize("echo", [LARGE_ECHO, orjson.Fragment(orjson.dumps(LARGE_ECHO))], ids=["dict", "fragment"])
def test_large_metadata_never_keep_a_result_from_being_written(answer: bytes, echo: EchoedMetadata) -> None:
    """They are left out in the smaller forms; the last form of every output is small whatever the task brought."""
    success = RECORDER.succeeded(PLAIN, echo, "a1", Success(answer, 0.5), SPENTS[0], False, NOW_MS)
    failure = RECORDER.failed(PLAIN, echo, error_of("too_large"), SPENTS[0], NOW_MS)
    check([*success, *failure])
    for output in (*success, *failure):
        last = list(forms([output]))[-1]
        assert len(last.value or b"") < LARGE_BYTES
    result = success[0].fallback
    assert result is not None
    assert orjson.loads(result.value or b"")["status"] == "success", "the answer is worth more than the metadata"


HEADERS: tuple[tuple[str, Any], ...] = (
    ("mine", b"1"),
    (AGENT_HEADER, b"a1"),
    ("mine", b"2"),
    ("empty", None),
    (EXPIRES_HEADER, b"5"),
    (HOPS_HEADER, b"1"),
    ("traceparent", b"\xff"),
)


@pytest.mark.parametrize("value", [None, b"", b"\xff\x00", b"z" * (LARGE_BYTES + 1)])
def test_a_dead_letter_keeps_what_came(value: bytes | None) -> None:
    """Bytes, key and headers as they were, without our own routing headers, and where it came from and why."""
    record = SourceRecord("dispatch", 3, 41, b"\xfe", value, HEADERS)
    output, event = RECORDER.dead_letter(record, "validate", "id: missing ü", NOW_MS)
    assert (output.topic, output.key, output.value) == ("dlq.dispatch", b"\xfe", value)
    kept = [h for h in HEADERS if h[0] not in OWN_HEADERS]
    assert output.headers[: len(kept)] == kept
    own_headers = dict(output.headers[len(kept) :])
    assert own_headers == {
        "__dlq.errors.topic": b"t.dispatch",
        "__dlq.errors.partition": b"3",
        "__dlq.errors.offset": b"41",
        "__dlq.errors.group": b"app-dispatch",
        "__dlq.errors.delivery.count": b"1",
        "__dlq.errors.message": "id: missing ü".encode(),
        "parallax.dlq.exception": b"Rejected",
        "parallax.dlq.stage": b"validate",
        "parallax.dlq.time": format_time(NOW_MS).encode(),
    }
    assert not OWN_HEADERS & {name for name, _ in output.headers}
    assert (event.topic, event.key) == ("events", b"t.dispatch/3/41")


def test_the_event_of_a_dead_letter_says_where_it_lay() -> None:
    """Valid as any event, and the same place gives the same id."""
    record = SourceRecord("tasks", 3, 41, None, b"junk", ())
    event = RECORDER.dead_letter(record, "decode", "value: is not JSON", NOW_MS)[1]
    data = check([event])["task:dead-lettered"]["data"]
    assert data == {"topic": "t.tasks", "partition": 3, "offset": 41, "reason": "value: is not JSON"}


def test_a_large_dead_letter_can_lose_its_value() -> None:
    """The smaller form keeps key and headers and says how much was left out."""
    record = SourceRecord("tasks", 0, 1, b"k", b"z" * 100_000, HEADERS)
    output = RECORDER.dead_letter(record, "decode", "why", NOW_MS)[0]
    assert output.fallback is not None
    assert (output.fallback.topic, output.fallback.key, output.fallback.value) == ("dlq.tasks", b"k", None)
    assert output.fallback.headers == [*output.headers, ("parallax.dlq.omitted_bytes", b"100000")]
    assert RECORDER.dead_letter(SourceRecord("tasks", 0, 1, b"k", b"z"), "decode", "why", NOW_MS)[0].fallback is None


def test_a_forward_replaces_our_own_headers_and_keeps_the_others() -> None:
    """Same bytes, the agent's key and partition, one of each routing header: what runs already goes on running."""
    record = SourceRecord("dispatch", 0, 1, b"k", b'{"id": "t"}', HEADERS)
    carried = Carried(origin_ms=7, deadline_ms=99, attempts=1)
    output = RECORDER.forward(record, "agent-7", "agent-7", carried, 2, partition_for(b"agent-7", 4), 0)
    assert (output.topic, output.key, output.value) == ("dispatch", b"agent-7", b'{"id": "t"}')
    assert output.partition == partition_for(b"agent-7", 4)
    kept = [h for h in HEADERS if h[0] not in OWN_HEADERS]
    own_headers = [(ORIGIN_HEADER, b"7"), (EXPIRES_HEADER, b"99"), (ATTEMPTS_HEADER, b"1"), (HOPS_HEADER, b"2")]
    assert output.headers == [*kept, *own_headers, (AGENT_HEADER, b"agent-7")]
    assert own_header(output.headers, EXPIRES_HEADER) == 99


def test_a_relocated_record_says_what_it_carries_on() -> None:
    """Same bytes and partition, to the end of `parked`; a task without a deadline and attempts says nothing of them."""
    record = SourceRecord("tasks", 3, 1, b"k", b'{"id": "t"}', HEADERS)
    output = RECORDER.relocate(record, "t", "agent-7", Carried(7), "tasks/3/1", 0)
    assert (output.topic, output.partition, output.key, output.value) == ("parked", 3, b"agent-7", record.value)
    kept = [h for h in HEADERS if h[0] not in OWN_HEADERS]
    own_headers = [(ORIGIN_HEADER, b"7"), (AGENT_HEADER, b"agent-7"), (TASK_HEADER, b"t"), (MOVED_HEADER, b"tasks/3/1")]
    assert output.headers == [*kept, *own_headers]
    assert RECORDER.relocate(record, "t", "", Carried(7), "x", 0).key == b"t"


def test_only_whole_numbers_are_read_from_our_headers() -> None:
    """Anything else was not written by us."""
    assert own_header([("a", b"5")], "a") == 5
    assert own_header([("a", b"-5"), ("b", b"5")], "a") is None
    assert own_header([("a", "\u0665".encode())], "a") is None
    assert own_header([], "a") is None
    nothing: Any = None
    assert own_header([("a", nothing)], "a") is None


@pytest.mark.parametrize(
    "echo",
    [ECHO, {}, orjson.Fragment(b'{"mine":"kept","timeout":5}'), {"answer": "the task's own"}],
    ids=["dict", "none", "fragment", "same name"],
)
def test_the_other_members_of_an_answer_stand_on_the_result(echo: EchoedMetadata) -> None:
    """Beside the task's own metadata, as `metadata.answer`; without any there is no such member."""
    rest = {"reasoning": "so", "usage": {"inputTokens": 3}}
    success = Success(b"1", 0.5, orjson.dumps(rest))
    result = check(RECORDER.succeeded(PLAIN, echo, "a1", success, SPENTS[0], False, NOW_MS))["results"]
    assert result["metadata"].pop("answer") == rest
    assert "answer" not in result["metadata"]
    assert orjson.dumps(result["metadata"]) in (orjson.dumps(echo), b"{}")
    bare = check(RECORDER.succeeded(PLAIN, ECHO, "a1", Success(b"1", 0.5), SPENTS[0], False, NOW_MS))["results"]
    assert "answer" not in bare["metadata"]


@pytest.mark.parametrize("answer", [b"1", b'"' + b"x" * 900_000 + b'"'], ids=["small", "large"])
def test_large_members_of_an_answer_are_given_up_first(answer: bytes) -> None:
    """Then the task's metadata if they are large, then the value: the last form is always small."""
    success = Success(answer, 0.5, orjson.dumps({"reasoning": "x" * 500_000}))
    output = RECORDER.succeeded(PLAIN, ECHO, "a1", success, SPENTS[0], False, NOW_MS)[0]
    found = [orjson.loads(form.value or b"") for form in forms([output])]
    assert "answer" in found[0]["metadata"]
    assert found[1]["metadata"] == {"mine": "kept", "timeout": 5}
    assert found[1]["result"] == orjson.loads(answer)
    assert len(list(forms([output]))[-1].value or b"") < LARGE_BYTES
