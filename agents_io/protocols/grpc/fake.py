"""A scripted gRPC agent for tests: a real `ConfidenceAgent` on loopback that answers, fails, hangs or lies as its script has it.

In: the steps of `steps`, as for the HTTP agent; a status is given by its HTTP number, or by gRPC's own (1 to 16).
Out: answers to Analyze and StreamAnalyze, and the same log of calls, metadata in place of headers. What HTTP says with bytes is
said with what gRPC has: a body that is no JSON is no message either; `drip` on Analyze sends the head and no more.
A small relay stands before the server, so that a connection can really be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import grpc
import grpc.aio
import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.wrappers_pb2 import Int32Value

from agents_io.fakes.http import FakeAgent, Received
from agents_io.fakes.steps import ScriptStep
from schemas.pb.confidence_pb2 import AgentRequest, Capabilities, ConfidenceResult, Health

ENDLESS_BYTES = 8 * 1024 * 1024
_GARBAGE = b"\x0a\xff\xff\xff\xff\xff"
_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_STATUS |= {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}

Context = grpc.aio.ServicerContext[Any, Any]


class GrpcFakeAgent(FakeAgent):
    """`async with GrpcFakeAgent([status(503, times=2), answer(confidence=0.8)]) as agent:` serves at `agent.endpoint`.

    `health_by`: its own HealthCheck, the standard service, or none. `credentials`: serve TLS. `compressed`: gzip each answer.
    """

    def __init__(
        self,
        steps: ScriptStep | Sequence[ScriptStep] = (),
        *,
        health_by: Literal["own", "standard", "none"] = "own",
        credentials: grpc.ServerCredentials | None = None,
        compressed: bool = False,
        max_request_bytes: int = -1,
        **options: Any,
    ) -> None:
        super().__init__(steps, **options)
        self.connections = 0
        """How many were made so far."""
        self.status = Health.HEALTHY
        self._health_by = health_by
        self._credentials = credentials
        self._compression = grpc.Compression.Gzip if compressed else None
        self._max_request_bytes = max_request_bytes
        self._server: grpc.aio.Server | None = None
        self._relay: asyncio.Server | None = None
        self._open: dict[int, asyncio.StreamWriter] = {}
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"grpc{'s' if self._credentials else ''}://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", self._max_request_bytes)]
        self._server = grpc.aio.server(options=options, compression=self._compression)
        self._server.add_generic_rpc_handlers(self._handlers())
        place = "127.0.0.1:0"
        port = (
            self._server.add_insecure_port(place)
            if self._credentials is None
            else self._server.add_secure_port(place, self._credentials)
        )
        await self._server.start()

        def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._carry(reader, writer, port))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

        self._relay = await asyncio.start_server(relay, "127.0.0.1", self._port)
        self._port = self._relay.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._relay is not None:
            self._relay.close()
        for pump in list(self._pumps):
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)
        if self._server is not None:
            await self._server.stop(None)

    def cut(self) -> None:
        """Cut every connection, as a crash would."""
        for writer in list(self._open.values()):
            writer.transport.abort()

    # The relay

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.connections += 1
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", port)
        own_port: int = inner.get_extra_info("sockname")[1]
        self._open[own_port] = writer
        pumps = [asyncio.create_task(_pump(*ends)) for ends in ((reader, inner), (inner_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._open[own_port]
            for pump in pumps:
                pump.cancel()
            for end in (writer, inner):
                end.transport.abort()

    def _cut(self, context: Context) -> None:
        """Cut the line this call came by."""
        writer = self._open.get(int(context.peer().rpartition(":")[2]))
        if writer is not None:
            writer.transport.abort()

    # The services

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        own: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Analyze": grpc.unary_unary_rpc_method_handler(self._one),
            "StreamAnalyze": grpc.unary_stream_rpc_method_handler(self._many),
            "GetCapabilities": grpc.unary_unary_rpc_method_handler(self._skills),
        }
        if self._health_by == "own":
            own["HealthCheck"] = grpc.unary_unary_rpc_method_handler(self._own_health)
        handlers = [grpc.method_handlers_generic_handler("parallax.confidence.ConfidenceAgent", own)]
        if self._health_by == "standard":
            standard: dict[str, grpc.RpcMethodHandler[bytes, bytes]]
            standard = {"Check": grpc.unary_unary_rpc_method_handler(self._standard_health)}
            handlers.append(grpc.method_handlers_generic_handler("grpc.health.v1.Health", standard))
        return tuple(handlers)

    async def _one(self, raw: bytes, context: Context) -> bytes:
        with self._noted(raw, context) as (step, payload, received):
            return await self._said(step, payload, received, context)

    async def _many(self, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        """A first guess, then what Analyze would say."""
        with self._noted(raw, context) as (step, payload, received):
            guess = ConfidenceResult(value_json='"a guess"', confidence=0.1).SerializeToString()
            if step.kind == "raw" and step.body == b"":
                return
            yield guess
            while step.kind == "drip":
                await asyncio.sleep(0.05)
                yield guess
            yield await self._said(step, payload, received, context, begun=True)

    @contextmanager
    def _noted(self, raw: bytes, context: Context) -> Iterator[tuple[ScriptStep, Any, Received]]:
        request = AgentRequest.FromString(raw)
        headers = {str(name): str(value) for name, value in context.invocation_metadata() or ()}
        key = headers.get("idempotency-key", "")
        step = self._step_for(key)
        data = MessageToDict(request.data)
        payload = data["value"] if data.keys() == {"value"} else data
        received = Received(time.time(), key, headers, request, step.kind)
        self.calls.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield step, payload, received
            received.ended = received.ended or "answered"
            received.code = received.code or 200
        except (asyncio.CancelledError, GeneratorExit):
            received.ended = received.ended or "closed"
            raise
        except grpc.aio.AbortError:
            received.ended, received.code = "answered", step.code
            raise
        finally:
            self.in_flight -= 1
            received.ended_at = time.time()
            if self._log is not None:
                self._log.write(json.dumps(received.line()) + "\n")
                self._log.flush()

    async def _said(
        self, step: ScriptStep, payload: Any, received: Received, context: Context, *, begun: bool = False
    ) -> bytes:
        """The answer's bytes. `begun`: the head of it is sent already."""
        if step.delay_s > 0:
            await asyncio.sleep(step.delay_s)
        if step.kind in ("hang", "drip"):
            if step.kind == "drip":
                await context.send_initial_metadata(())
            await asyncio.Event().wait()
        if step.kind == "reset":
            if step.size and not begun:
                await context.send_initial_metadata(())
                await asyncio.sleep(0.02)
            received.ended = "dropped"
            self._cut(context)
            await asyncio.Event().wait()
        if step.kind == "huge":
            size = step.size or ENDLESS_BYTES
            return ConfidenceResult(value_json='"' + "x" * size + '"', confidence=0.5).SerializeToString()
        if step.kind == "status":
            trailing = tuple((name.lower(), value) for name, value in step.headers if name == "Retry-After")
            details = step.body.decode("utf-8", "replace") if isinstance(step.body, bytes) else str(step.body)
            await context.abort(_STATUS.get(step.code, grpc.StatusCode.UNKNOWN), details, trailing)
        body = step.compute(payload) if step.compute is not None else step.body
        return _message(body)

    async def _own_health(self, raw: bytes, context: Context) -> bytes:
        status = self.status if self.healthy else Health.UNHEALTHY
        return Health(status=status).SerializeToString()

    async def _standard_health(self, raw: bytes, context: Context) -> bytes:
        return Int32Value(value=1 if self.healthy else 2).SerializeToString()

    async def _skills(self, raw: bytes, context: Context) -> bytes:
        scores = dict.fromkeys(self._capabilities, 0.5)
        skills = Capabilities(agent_id="fake", name="Fake", capabilities=self._capabilities, capability_scores=scores)
        return skills.SerializeToString()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()


def _message(body: Any) -> bytes:
    """A ConfidenceResult of an answer's JSON; bytes that are none where the JSON is none.

    An answer that a ConfidenceResult cannot carry is a slip in the test: TypeError.
    """
    if isinstance(body, bytes):
        if not body:
            return b""
        try:
            body = json.loads(body)
        except ValueError:
            return _GARBAGE
    value_json = orjson.dumps(body["value"]) if not _deep(body["value"]) else json.dumps(body["value"]).encode()
    rest = {key: value for key, value in body.items() if key in ("reasoning", "uncertainties", "metadata")}
    return ConfidenceResult(value_json=value_json.decode(), confidence=body["confidence"], **rest).SerializeToString()


def _deep(value: Any) -> bool:
    """orjson writes no more than 254 levels."""
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth > 200
