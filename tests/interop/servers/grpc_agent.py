"""A ConfidenceAgent on plain grpcio, without HealthCheck but with the standard health service, and with trailers of 12 KiB."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from guard import PORT, TOKEN, act

path = Path(__file__).parents[3] / "schemas" / "pb" / "confidence_pb2.py"
spec = importlib.util.spec_from_file_location("confidence_pb2", path)
assert spec is not None
assert spec.loader is not None
pb: Any = importlib.util.module_from_spec(spec)
sys.modules["confidence_pb2"] = pb
spec.loader.exec_module(pb)


async def analyze(request: Any, context: Any) -> Any:
    """Does what the description says."""
    if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "bad token")
    try:
        await act(request.task_description)
    except RuntimeError as error:
        await context.abort(grpc.StatusCode.INTERNAL, str(error))
    context.set_trailing_metadata((("x-debug", "d" * 12_000),))
    return pb.ConfidenceResult(value_json='"yes"', confidence=0.93, metadata={"why": "so"})


async def main() -> None:
    """Until it is ended."""
    server = grpc.aio.server()
    methods = {
        "Analyze": grpc.unary_unary_rpc_method_handler(
            analyze, pb.AgentRequest.FromString, pb.ConfidenceResult.SerializeToString
        )
    }
    name = "parallax.confidence.ConfidenceAgent"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    standard = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(standard, server)
    await standard.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
