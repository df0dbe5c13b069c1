"""The messages' own rules: what is accepted, defaulted and refused, and the form on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.messages import (
    AgentRegistration,
    BreakerLimits,
    ConfidenceDataPoint,
    Control,
    Limits,
    Message,
    Plan,
    Result,
    Schedule,
    SecretRef,
    Task,
    TaskMetadata,
    explain,
)

TASK: dict[str, Any] = {"id": "t1", "type": "agent", "target": "a1", "payload": None}
POINT: dict[str, Any] = {
    "agentId": "a1", "patternName": "p", "taskType": "agent", "confidence": 0.5, "success": True,
    "timestamp": 0, "executionTime": 3,
}  # fmt: skip


def fault(model: type[Message], data: dict[str, Any]) -> str:
    """Why `data` is refused."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return explain(caught.value)


def test_unknown_fields_are_accepted_and_dropped() -> None:
    """A newer producer does not break an older worker."""
    task = Task.model_validate(TASK | {"new": 1, "metadata": {"mine": 2}})
    assert task.wire() == {"id": "t1", "type": "agent", "target": "a1", "metadata": {"priority": 0, "cache": True}}


def test_the_case_of_a_scheme_does_not_matter() -> None:
    """Nor does it hide a password."""
    agent = AgentRegistration.model_validate({"id": "a", "endpoint": "HTTP://Host/Path"})
    assert (agent.endpoint, agent.transport) == ("http://Host/Path", "http")
    assert AgentRegistration.model_validate({"id": "a", "endpoint": "Kafka://Topic"}).endpoint == "kafka://Topic"
    assert "user name or password" in fault(AgentRegistration, {"id": "a", "endpoint": "HTTPS://u:p@host"})


WRITTEN_BY_USERS: list[tuple[type[Message], dict[str, Any]]] = [
    (Task, TASK),
    (TaskMetadata, {}),
    (Plan, {"id": "p1", "tasks": [TASK]}),
    (AgentRegistration, {"id": "a1", "endpoint": "http://h"}),
    (Limits, {}),
    (BreakerLimits, {}),
    (Schedule, {"id": "s1", "everyMs": 60_000, "task": {key: TASK[key] for key in ("type", "target", "payload")}}),
    (ConfidenceDataPoint, POINT),
]


@pytest.mark.parametrize(("model", "data"), WRITTEN_BY_USERS)
def test_null_stands_for_what_is_not_set(model: type[Message], data: dict[str, Any]) -> None:
    """Typed clients write it for every field they leave out."""
    absent = [field.alias or name for name, field in model.model_fields.items() if not field.is_required()]
    nulls = dict.fromkeys(absent) | data
    assert model.model_validate(nulls) == model.model_validate(data)


def test_a_task_says_whom_it_is_for() -> None:
    """A target, or capabilities when it is for an agent; nothing else."""
    bare = {key: value for key, value in TASK.items() if key != "target"}
    assert Task.model_validate(bare | {"capabilities": ["c"]}).target is None
    assert "needs target or capabilities" in fault(Task, bare)
    assert "type 'function' needs target" in fault(Task, bare | {"type": "function", "capabilities": ["c"]})
    assert fault(Task, bare | {"capabilities": []}).startswith("capabilities: ")


def test_null_metadata_is_no_metadata() -> None:
    """Producers that write every field may."""
    assert Task.model_validate(TASK | {"metadata": None}).metadata.cache is True


@pytest.mark.parametrize(
    ("endpoint", "transport"),
    [
        ("http://h:1/x", "http"),
        ("https://h", "http"),
        ("grpc://h:1", "grpc"),
        ("gateway://a", "gateway"),
        ("mcp://x", "mcp"),
    ],
)
def test_the_scheme_tells_the_protocol(endpoint: str, transport: str) -> None:
    """Unless it is given."""
    assert AgentRegistration(id="a", endpoint=endpoint).transport == transport


def test_an_agent_that_cannot_be_reached_is_refused() -> None:
    """No scheme and no protocol; http without a URL. A host and port with a protocol is fine."""
    assert "cannot be derived" in fault(AgentRegistration, {"id": "a", "endpoint": "h:50051"})
    assert AgentRegistration(id="a", endpoint="h:50051", protocol="grpc").transport == "grpc"
    assert "needs an http:// or https:// URL" in fault(
        AgentRegistration, {"id": "a", "endpoint": "grpc://h", "protocol": "http"}
    )


def test_one_of_two_means_exactly_one() -> None:
    """Controls and secrets."""
    for data in ({}, {"taskId": "t", "planId": "p"}):
        assert "exactly one" in fault(Control, {"type": "cancel"} | data)
    for data in ({}, {"env": "A", "file": "b"}):
        assert "exactly one" in fault(SecretRef, data)


@pytest.mark.parametrize("value", [1.1, -0.1, float("nan"), float("inf"), "0.5", True, None])
def test_a_confidence_is_a_number_between_0_and_1(value: Any) -> None:
    """Nothing else passes for one."""
    assert fault(ConfidenceDataPoint, POINT | {"confidence": value}).startswith("confidence: ")


def test_a_point_is_written_with_wire_names_and_times() -> None:
    """camelCase, RFC 3339."""
    assert ConfidenceDataPoint.model_validate(POINT).wire() == POINT | {
        "timestamp": "1970-01-01T00:00:00.000Z",
        "feedback": False,
    }


def test_a_plan_checks_its_tasks() -> None:
    """The path to the fault is in the message."""
    assert fault(Plan, {"id": "p", "tasks": [TASK, TASK | {"id": ""}]}).startswith("tasks.1.id: ")
    assert fault(Plan, {"id": "p", "tasks": []}).startswith("tasks: ")


def test_many_faults_are_counted_and_secrets_not_quoted() -> None:
    """At most three sentences; input values do not appear."""
    text = fault(Result, {"taskId": 5, "status": "hunter2"})
    assert text.count(";") == 3
    assert text.endswith("more")
    assert "hunter2" not in text


def test_messages_are_frozen() -> None:
    """Nobody changes a message under way."""
    with pytest.raises(ValidationError):
        Task.model_validate(TASK).id = "x"  # type: ignore[misc]
