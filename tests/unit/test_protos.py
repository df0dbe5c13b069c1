"""The wire of gRPC agents, gateway and registry: names and numbers as promised, generated code in step with its source."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor

import schemas
from agents_io.grpc.services import service_handler
from schemas.pb import confidence_pb2, gateway_pb2, registry_pb2

SOURCES = Path(schemas.__file__).parent / "proto"
GENERATED = Path(schemas.__file__).parent / "pb"

# Written by hand from the contract, on purpose: a number that changes here breaks every agent there is.
TABLE = {
    "parallax.confidence": {
        "AgentRequest": "string task_id=1, string task_description=2, google.protobuf.Struct data=3,"
        " map<string,string> context=4, int32 timeout_ms=5, string pattern_name=6",
        "ConfidenceResult": "string value_json=1, double confidence=2, string agent_id=3,"
        " google.protobuf.Timestamp timestamp=4, repeated string uncertainties=5, string reasoning=6,"
        " map<string,string> metadata=7",
        "Capabilities": "string agent_id=1, string name=2, repeated string capabilities=3, double expertise_level=4,"
        " map<string,double> capability_scores=5",
        "Health": "parallax.confidence.Health.Status status=1, string message=2,"
        " google.protobuf.Timestamp last_check=3, map<string,string> details=4",
    },
    "parallax.gateway": {
        "AgentToControlPlane": "string request_id=1, parallax.gateway.AgentHello hello=2,"
        " parallax.gateway.AgentHeartbeat heartbeat=3, parallax.gateway.TaskResult task_result=4,"
        " parallax.gateway.TaskError task_error=5",
        "AgentHello": "string agent_id=1, string agent_name=2, repeated string capabilities=3,"
        " map<string,string> metadata=4, int32 heartbeat_interval_ms=5",
        "AgentHeartbeat": "string agent_id=1, double load=2, string status=3, map<string,string> extra=4",
        "TaskResult": "string task_id=1, string value_json=2, double confidence=3, string reasoning=4,"
        " map<string,string> metadata=5",
        "TaskError": "string task_id=1, string error_message=2, string error_code=3",
        "ControlPlaneToAgent": "string request_id=1, parallax.gateway.ServerAck ack=2,"
        " parallax.gateway.TaskRequest task_request=3, parallax.gateway.CancelTask cancel_task=4,"
        " parallax.gateway.Ping ping=5",
        "ServerAck": "bool accepted=1, string message=2, string assigned_node_id=3",
        "TaskRequest": "string task_id=1, string task_description=2, google.protobuf.Struct data=3,"
        " map<string,string> context=4, int32 timeout_ms=5, string pattern_name=6",
        "CancelTask": "string task_id=1, string reason=2",
        "Ping": "google.protobuf.Timestamp server_time=1",
    },
    "parallax.registry": {
        "AgentRegistration": "string id=1, string name=2, string endpoint=3, repeated string capabilities=4,"
        " parallax.registry.AgentRegistration.Metadata metadata=5, google.protobuf.Timestamp registered_at=6,"
        " google.protobuf.Duration ttl=7",
        "AgentRegistration.Metadata": "string version=1, string region=2, map<string,string> labels=3,"
        " double default_confidence=4",
        "RegisterRequest": "parallax.registry.AgentRegistration agent=1, bool auto_renew=2",
        "RegisterResponse": "bool success=1, string message=2, string lease_id=3",
        "RenewRequest": "string lease_id=1, google.protobuf.Duration ttl=2",
        "ListAgentsRequest": "repeated string capabilities=1, map<string,string> labels=2, int32 limit=3,"
        " string continuation_token=4",
        "ListAgentsResponse": "repeated parallax.registry.AgentRegistration agents=1,"
        " string next_continuation_token=2, int32 total_count=3",
        "GetAgentRequest": "string agent_id=1",
        "WatchRequest": "repeated string capabilities=1, bool include_initial=2",
        "WatchEvent": "parallax.registry.WatchEvent.Type type=1, parallax.registry.AgentRegistration agent=2,"
        " google.protobuf.Timestamp timestamp=3",
    },
}
SERVICES = {
    "parallax.confidence.ConfidenceAgent": {
        "Analyze": "AgentRequest -> ConfidenceResult",
        "GetCapabilities": "Empty -> Capabilities",
        "HealthCheck": "Empty -> Health",
        "StreamAnalyze": "AgentRequest -> stream ConfidenceResult",
    },
    "parallax.gateway.AgentGateway": {"Connect": "stream AgentToControlPlane -> stream ControlPlaneToAgent"},
    "parallax.registry.Registry": {
        "Register": "RegisterRequest -> RegisterResponse",
        "Unregister": "AgentRegistration -> RegisterResponse",
        "Renew": "RenewRequest -> RegisterResponse",
        "ListAgents": "ListAgentsRequest -> ListAgentsResponse",
        "GetAgent": "GetAgentRequest -> AgentRegistration",
        "Watch": "WatchRequest -> stream WatchEvent",
    },
}
ENUMS = {
    "parallax.confidence.Health.Status": {"UNKNOWN": 0, "HEALTHY": 1, "UNHEALTHY": 2, "DEGRADED": 3},
    "parallax.registry.WatchEvent.Type": {"UNKNOWN": 0, "ADDED": 1, "MODIFIED": 2, "DELETED": 3},
}
FILES: list[FileDescriptor] = [confidence_pb2.DESCRIPTOR, gateway_pb2.DESCRIPTOR, registry_pb2.DESCRIPTOR]


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            key, value = (_kind(field.message_type.fields_by_name[name]) for name in ("key", "value"))
            return f"map<{key},{value}>"
        return str(field.message_type.full_name)
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    names = {FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_DOUBLE: "double"}
    return {**names, FieldDescriptor.TYPE_INT32: "int32", FieldDescriptor.TYPE_BOOL: "bool"}[field.type]


def _fields(message: Any) -> str:
    return ", ".join(
        f"{'repeated ' if field.is_repeated and not _kind(field).startswith('map') else ''}"
        f"{_kind(field)} {field.name}={field.number}"
        for field in message.fields
    )


def _messages(found: dict[str, Any], prefix: str = "") -> dict[str, str]:
    table = {}
    for name, message in found.items():
        if not message.GetOptions().map_entry:
            table[prefix + name] = _fields(message)
            table |= _messages(message.nested_types_by_name, f"{prefix}{name}.")
    return table


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.package)
def test_fields_names_and_numbers_are_those_of_the_contract(file: FileDescriptor) -> None:
    """Nothing missing, nothing more, nothing renamed."""
    assert _messages(file.message_types_by_name) == TABLE[file.package]


def test_services_are_those_of_the_contract() -> None:
    """Every method, with what streams."""
    found = {
        service.full_name: {
            method.name: f"{'stream ' if method.client_streaming else ''}{method.input_type.name}"
            f" -> {'stream ' if method.server_streaming else ''}{method.output_type.name}"
            for method in service.methods
        }
        for file in FILES
        for service in file.services_by_name.values()
    }
    assert found == SERVICES


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_those_of_the_contract(name: str) -> None:
    """An agent sends the number."""
    pool = confidence_pb2.DESCRIPTOR.pool
    assert {value.name: value.number for value in pool.FindEnumTypeByName(name).values} == ENUMS[name]


@pytest.mark.parametrize("name", ["AgentToControlPlane", "ControlPlaneToAgent"])
def test_what_a_gateway_message_carries_is_one_of(name: str) -> None:
    """Setting one clears the other."""
    message = gateway_pb2.DESCRIPTOR.message_types_by_name[name]
    assert [field.number for field in message.oneofs_by_name["payload"].fields] == [2, 3, 4, 5]


def test_agent_threads_are_ignored() -> None:
    """Fields 6 to 8 come from agents that can do more: they cost nothing."""
    # Field 6 of a message kind, with one byte in it, then the request's id.
    message = gateway_pb2.AgentToControlPlane.FromString(b"\x32\x02\x0a\x00" + b"\x0a\x01r")
    assert message.request_id == "r"
    assert message.WhichOneof("payload") is None


def test_generated_code_is_in_step_with_its_source(tmp_path: Path) -> None:
    """`make protos` would change nothing."""
    sources = sorted(str(path) for path in SOURCES.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-Ischemas/pb={SOURCES}"]
    subprocess.run([*command, f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *sources], check=True)
    fresh = {path.name: path.read_text() for path in (tmp_path / "schemas" / "pb").iterdir()}
    committed = {path.name: path.read_text() for path in GENERATED.glob("*_pb2.py*")}
    assert len(fresh) == 2 * len(sources)
    assert committed == fresh, "run `make protos`"


def test_a_method_the_service_does_not_have_is_refused() -> None:
    """A slip in a name is found when the server is built."""
    registry = importlib.import_module("schemas.pb.registry_pb2")
    with pytest.raises(KeyError):
        service_handler(registry, "Registry", {"Registre": print})
