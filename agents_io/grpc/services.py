"""gRPC services as their .proto files describe them: what a server answers, what a client calls. No generated stubs.

In: a generated module and a service's name. Out: a handler for a `grpc.aio` server, or one callable for a method.
A method the mapping leaves out is answered UNIMPLEMENTED. Nothing is served, dialled or checked here.

    server.add_generic_rpc_handlers((service_handler(registry_pb2, "Registry", {"Renew": registry.renew}),))
    answer = await method(channel, confidence_pb2, "ConfidenceAgent", "Analyze")(request, timeout=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass


def service_handler(
    module: ModuleType, service: str, methods: Mapping[str, Callable[..., Any]]
) -> grpc.GenericRpcHandler:
    """Serves `methods`: by the names of the .proto, `async def (request or iterator, context)` each.

    Raises KeyError for a service or a method the .proto does not have.
    """
    described = module.DESCRIPTOR.services_by_name[service]
    handlers = {name: _handler(described.methods_by_name[name], function) for name, function in methods.items()}
    return grpc.method_handlers_generic_handler(described.full_name, handlers)


def method(channel: grpc.aio.Channel, module: ModuleType, service: str, name: str) -> Callable[..., Any]:
    """One method of a service at the other end of `channel`. Raises KeyError for one the .proto does not have."""
    described = module.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    kind = f"{_kind(described.client_streaming)}_{_kind(described.server_streaming)}"
    make: Callable[..., Any] = getattr(channel, kind)
    call: Callable[..., Any] = make(
        f"/{described.containing_service.full_name}/{described.name}",
        request_serializer=GetMessageClass(described.input_type).SerializeToString,
        response_deserializer=GetMessageClass(described.output_type).FromString,
    )
    return call


def _handler(described: MethodDescriptor, function: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    kind = f"{_kind(described.client_streaming)}_{_kind(described.server_streaming)}"
    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        function,
        request_deserializer=GetMessageClass(described.input_type).FromString,
        response_serializer=GetMessageClass(described.output_type).SerializeToString,
    )


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"
