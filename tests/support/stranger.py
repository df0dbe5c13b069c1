"""An agent that knows nothing of this project but the published field tables: run as a process, by path, with grpcio alone.

In: a directory of code generated from the .proto text below (`generate` makes it), the registry's address,
its own id, how it behaves. Out: a JSON line once it is registered, one for each call, one at its end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CONFIDENCE = """
syntax = "proto3";
package parallax.confidence;
import "google/protobuf/empty.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
service ConfidenceAgent {
  rpc Analyze (AgentRequest) returns (ConfidenceResult);
  rpc GetCapabilities (google.protobuf.Empty) returns (Capabilities);
  rpc HealthCheck (google.protobuf.Empty) returns (Health);
  rpc StreamAnalyze (AgentRequest) returns (stream ConfidenceResult);
}
message AgentRequest {
  string task_id = 1; string task_description = 2; google.protobuf.Struct data = 3;
  map<string, string> context = 4; int32 timeout_ms = 5; string pattern_name = 6;
}
message ConfidenceResult {
  string value_json = 1; double confidence = 2; string agent_id = 3; google.protobuf.Timestamp timestamp = 4;
  repeated string uncertainties = 5; string reasoning = 6; map<string, string> metadata = 7;
}
message Capabilities {
  string agent_id = 1; string name = 2; repeated string capabilities = 3; double expertise_level = 4;
  map<string, double> capability_scores = 5;
}
message Health {
  enum Status { UNKNOWN = 0; HEALTHY = 1; UNHEALTHY = 2; DEGRADED = 3; }
  Status status = 1; string message = 2; google.protobuf.Timestamp last_check = 3; map<string, string> details = 4;
}
"""
REGISTRY = """
syntax = "proto3";
package parallax.registry;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
service Registry {
  rpc Register (RegisterRequest) returns (RegisterResponse);
  rpc Unregister (AgentRegistration) returns (RegisterResponse);
  rpc Renew (RenewRequest) returns (RegisterResponse);
}
message AgentRegistration {
  message Metadata { string version = 1; string region = 2; map<string, string> labels = 3; double default_confidence = 4; }
  string id = 1; string name = 2; string endpoint = 3; repeated string capabilities = 4; Metadata metadata = 5;
  google.protobuf.Timestamp registered_at = 6; google.protobuf.Duration ttl = 7;
}
message RegisterRequest { AgentRegistration agent = 1; bool auto_renew = 2; }
message RegisterResponse { bool success = 1; string message = 2; string lease_id = 3; }
message RenewRequest { string lease_id = 1; google.protobuf.Duration ttl = 2; }
"""


def generate(directory: Path) -> Path:
    """Code from the texts above, by the stock compiler."""
    for name, text in (("confidence", CONFIDENCE), ("registry", REGISTRY)):
        (directory / f"{name}.proto").write_text(text)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{directory}", f"--python_out={directory}"]
    command += [f"--grpc_python_out={directory}", *(str(path) for path in directory.glob("*.proto"))]
    subprocess.run(command, check=True)
    return directory


def say(**words: Any) -> None:
    """One JSON line."""
    print(json.dumps(words), flush=True)


async def serve(registry: str, agent_id: str, ttl_s: int, delay_s: float, renews: bool) -> None:
    """Until SIGTERM."""
    import confidence_pb2
    import confidence_pb2_grpc
    import grpc
    import registry_pb2
    import registry_pb2_grpc

    class Agent(confidence_pb2_grpc.ConfidenceAgentServicer):  # type: ignore[misc]
        async def Analyze(self, request: Any, context: Any) -> Any:
            say(task=request.task_id, description=request.task_description, key=dict(context.invocation_metadata()))
            await asyncio.sleep(delay_s)
            value = json.dumps({"by": agent_id, "double": request.data["n"] * 2})
            return confidence_pb2.ConfidenceResult(value_json=value, confidence=0.75, agent_id=agent_id)

        async def HealthCheck(self, request: Any, context: Any) -> Any:
            return confidence_pb2.Health(status=confidence_pb2.Health.HEALTHY)

    server = grpc.aio.server()
    confidence_pb2_grpc.add_ConfidenceAgentServicer_to_server(Agent(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with grpc.aio.insecure_channel(registry) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        me = registry_pb2.AgentRegistration(
            id=agent_id, name="A stranger", endpoint=f"127.0.0.1:{port}", capabilities=["doubling"]
        )
        me.ttl.seconds = ttl_s
        lease = await stub.Register(registry_pb2.RegisterRequest(agent=me))
        say(registered=lease.success, lease=lease.lease_id, port=port)
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), max(0.3, ttl_s / 4))
            except TimeoutError:
                if renews:
                    await stub.Renew(registry_pb2.RenewRequest(lease_id=lease.lease_id))
        gone = await stub.Unregister(registry_pb2.AgentRegistration(id=agent_id))
        say(unregistered=gone.success)
    await server.stop(10)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    asyncio.run(serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6] == "renews"))
