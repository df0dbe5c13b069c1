"""`python -m tests.support.ask_from` asks a worker from wherever it runs. For a test in another network namespace.

In: on stdin `[[method, url, headers], ...]`, and for gRPC `["GRPC", "host:port", headers]`. Out: on stdout a list of
`[status, body]` in the same order; over gRPC the name of the status. 0 is a refused connection.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import httpx

from schemas.pb import registry_pb2


def over_http(method: str, url: str, headers: dict[str, str]) -> tuple[int, str]:
    """Status and the begin of the body."""
    try:
        with httpx.Client(timeout=10) as client, client.stream(method, url, headers=headers) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return answer.status_code, ""
            return answer.status_code, answer.read().decode("utf-8", "replace")[:2000]
    except httpx.TransportError as error:
        return 0, repr(error)


def over_grpc(address: str, headers: dict[str, str]) -> tuple[str, str]:
    """The status of a list of agents."""
    with grpc.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(
            "/parallax.registry.Registry/ListAgents",
            request_serializer=registry_pb2.ListAgentsRequest.SerializeToString,
            response_deserializer=registry_pb2.ListAgentsResponse.FromString,
        )
        try:
            method(registry_pb2.ListAgentsRequest(), metadata=tuple(headers.items()), timeout=10)
        except grpc.RpcError as error:
            return error.code().name, ""
    return "OK", ""


if __name__ == "__main__":
    print(
        json.dumps(
            [
                over_grpc(url, headers) if method == "GRPC" else over_http(method, url, headers)
                for method, url, headers in json.load(sys.stdin)
            ]
        )
    )
