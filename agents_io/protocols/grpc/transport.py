"""Calls to agents over gRPC: `parallax.confidence.ConfidenceAgent`, one attempt each.

In: a registration and a `Call`. Out: an `Answer`, or one `AgentError`: the table of statuses is below. `metadata.stream: true`
calls StreamAnalyze and takes the last result. The deadline goes along; a cancelled call is cancelled at the agent. It never
retries, never lets gRPC retry, never accepts a compressed answer, and never shows a secret in an error. With a wall it resolves
names itself, and a channel leads only to addresses that passed.

  UNAVAILABLE, CANCELLED by the agent         connection (UNAVAILABLE: waits as long as it asks to)
  DEADLINE_EXCEEDED                           timeout
  RESOURCE_EXHAUSTED                          rate_limited (waits as long as it asks to: RetryInfo, retry-after and the like)
    the answer is above our cap               too_large
    the task is above the agent's cap         http_4xx
  INTERNAL, UNKNOWN, DATA_LOSS, ABORTED       http_5xx
  INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE,
  UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED    http_4xx (ALREADY_EXISTS after the first attempt: tried again)
  OK with what is no answer                   bad_response
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value

from agents_io.errors import (
    AgentError,
    AnswerTooLarge,
    BadResponse,
    CallTimeout,
    ClientError,
    ConnectionFailed,
    Expired,
    ServerError,
    Unsupported,
)
from agents_io.grpc.channels import IDLE_S, MAX_CHANNELS, ChannelKey, Channels
from agents_io.grpc.credentials import GrpcCredentials
from agents_io.grpc.rules.payload import fill_request, parse_result
from agents_io.grpc.status import LINE_IN_DOUBT, status_error
from agents_io.lookup import Lookup, system_lookup
from agents_io.per_agent import PerAgent
from agents_io.protocols.grpc.endpoint import endpoint_of
from agents_io.rules.answer import Path, compile_path, excerpt
from agents_io.rules.targets import AgentWall
from agents_io.secret_refs import Secret
from agents_io.tls import TlsFiles, tls_of
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call, header_text
from schemas.messages import AgentRegistration
from schemas.pb.confidence_pb2 import AgentRequest, Health

SERVICE = "/parallax.confidence.ConfidenceAgent/"
STANDARD_HEALTH = "/grpc.health.v1.Health/Check"
SERVING = 1
MAX_RESULTS = 10_000
"""Results of one stream; only the last is kept."""
_ROOM = 64 * 1024
"""Room of a result beside its value: reasoning, metadata."""
_NAME = re.compile(r"[0-9a-z_.-]+", re.ASCII)

Metadata = list[tuple[str, str]]


class _Prepared:
    """The parts that stay the same between calls to one agent."""

    __slots__ = ("endpoint", "files", "secret", "streams", "value_path")

    def __init__(self, agent: AgentRegistration) -> None:
        self.endpoint = endpoint_of(agent.endpoint)
        self.files = tls_of(agent.metadata)
        self.secret = Secret(agent.auth) if agent.auth is not None else None
        metadata = agent.metadata or {}
        self.streams = metadata.get("stream") is True
        expression = metadata.get("valuePath")
        if expression is not None and not isinstance(expression, str):
            raise Unsupported("metadata.valuePath: must be a JMESPath expression in a string")
        self.value_path: Path | None = None if expression is None else compile_path("valuePath", expression)

    def token(self) -> str:
        """The secret to be sent, empty if there is none."""
        return "" if self.secret is None else self.secret.token()

    def authorised(self) -> Metadata:
        """The metadata every call carries."""
        if self.secret is None:
            return []
        name, value = (part.decode("ascii") for part in self.secret.header())
        return [_metadatum(name, value)]


class GrpcTransport:
    """Calls agents of protocol `grpc`; one instance, one pool of channels, for all of a worker's agents."""

    def __init__(
        self,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        tls: TlsFiles | None = None,
        max_channels: int = MAX_CHANNELS,
        idle_s: float = IDLE_S,
        wall: AgentWall | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        """`tls`: for `grpcs://` agents that name no files of their own in `metadata.tls`. `wall`: where endpoints may lead.

        `lookup`: in place of the system's, for tests.
        """
        self._wall = wall
        self._lookup = lookup
        self._max_answer_bytes = max_answer_bytes
        self.channels = Channels(max_message_bytes=max_answer_bytes + _ROOM, max_channels=max_channels, idle_s=idle_s)
        self._tls = tls or TlsFiles()
        self._credentials = GrpcCredentials()
        self._prepared = PerAgent(_Prepared)

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it cancels the call at the agent."""
        if not call.timeout_s > 0:
            raise Expired("no time is left for a call")
        prepared = self._prepared.get(agent)
        request = AgentRequest()
        fill_request(request, call)
        name = "StreamAnalyze" if prepared.streams else "Analyze"
        raw = await self._exchange(
            prepared,
            SERVICE + name,
            request.SerializeToString(),
            call.timeout_s,
            prepared.authorised() + _metadata(call),
            streams=prepared.streams,
            attempt=call.attempt,
        )
        return self._parse(raw, prepared)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """The agent reports HEALTHY or DEGRADED; without HealthCheck, the standard health service is asked.

        Raises `AgentError`; `Unsupported`: it has neither, or its registration cannot work.
        """
        prepared = self._prepared.get(agent)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            raw = await self._ask(prepared, SERVICE + "HealthCheck", Empty().SerializeToString(), timeout_s)
            status = Health.FromString(raw).status
            if status not in (Health.HEALTHY, Health.DEGRADED):
                raise ServerError(f"the agent reports {Health.Status.Name(status)}")
            return
        except NotImplementedByAgent:
            left_s = max(0.001, deadline - asyncio.get_running_loop().time())
        except DecodeError:
            raise BadResponse("the agent's health is not a Health message") from None
        try:
            # HealthCheckRequest of no service in particular is empty; the response holds its status in field 1.
            raw = await self._ask(prepared, STANDARD_HEALTH, b"", left_s)
            if Int32Value.FromString(raw).value != SERVING:
                raise ServerError("the agent's health service reports that it does not serve")
        except NotImplementedByAgent:
            raise Unsupported("the agent has no health check") from None
        except DecodeError:
            raise BadResponse("the agent's health is not a HealthCheckResponse message") from None

    async def close(self) -> None:
        await self.channels.close()

    async def _ask(self, prepared: _Prepared, path: str, request: bytes, timeout_s: float) -> bytes:
        return await self._exchange(prepared, path, request, timeout_s, prepared.authorised())

    async def _exchange(
        self,
        prepared: _Prepared,
        path: str,
        request: bytes,
        timeout_s: float,
        metadata: Metadata,
        *,
        streams: bool = False,
        attempt: int = 1,
    ) -> bytes:
        """Send bytes, return bytes. Every gRPC error becomes an `AgentError` here."""
        place = self._channel_key(prepared)
        addresses: list[str] = []
        if self._wall is not None and not self.channels.is_open(place):
            addresses = await self._permitted(self._wall, prepared, timeout_s)
        line = self.channels.take(place, addresses)
        failure: AgentError
        in_doubt = False
        try:
            method = line.method(path, streams=streams)
            return await _answered(method(request, timeout=timeout_s, metadata=metadata), streams)
        except grpc.aio.AioRpcError as error:
            in_doubt = error.code() in LINE_IN_DOUBT
            missing = error.code() is grpc.StatusCode.UNIMPLEMENTED
            failure = (
                NotImplementedByAgent(path) if missing else status_error(error, timeout_s, prepared.token(), attempt)
            )
        except asyncio.CancelledError:
            # gRPC raises this too when the channel was closed during the call.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            failure = ConnectionFailed("the channel to the agent was closed")
        finally:
            self.channels.give_back(line, failed=in_doubt)
        # Raised here without context: the frames of gRPC's error would keep the call, and the call its connection.
        raise failure

    async def _permitted(self, wall: AgentWall, prepared: _Prepared, timeout_s: float) -> list[str]:
        """The addresses of an agent's host, all of which have passed. Raises `ForbiddenTarget`, `ConnectionFailed`."""
        target, tls = prepared.endpoint
        host, _, port = target.rpartition(":")
        host = host.strip("[]")
        wall.check_origin(host, int(port), tls=tls)
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._lookup(host, int(port))
        except TimeoutError:
            raise CallTimeout(f"no address of {host} within {timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            raise ConnectionFailed(f"cannot look up {host}: {error}") from None
        for address in found:
            wall.check_address(address)
        if not found:
            raise ConnectionFailed(f"{host} has no address")
        return found

    def _channel_key(self, prepared: _Prepared) -> ChannelKey:
        target, tls = prepared.endpoint
        return ChannelKey(target, self._credentials.get(prepared.files or self._tls) if tls else None)

    def _parse(self, raw: bytes, prepared: _Prepared) -> Answer:
        try:
            return parse_result(raw, self._max_answer_bytes, prepared.value_path)
        except BadResponse:
            token = prepared.token().encode()
            if token and token in raw:
                raise BadResponse("invalid response (body withheld: it echoes the request's secret)") from None
            raise


class NotImplementedByAgent(ClientError):
    """UNIMPLEMENTED: the agent has no such method."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the agent answered UNIMPLEMENTED: it has no {path.rpartition('/')[2]}")


async def _answered(pending: Any, streams: bool) -> bytes:
    return await (_last(pending) if streams else pending)


async def _last(results: Any) -> bytes:
    """The last result of a stream. Leaving early ends the stream at the agent too."""
    last: bytes | None = None
    count = 0
    try:
        async for result in results:
            last, count = result, count + 1
            if count > MAX_RESULTS:
                raise AnswerTooLarge(f"the agent streams more than {MAX_RESULTS} results")
    finally:
        results.cancel()
    if last is None:
        raise BadResponse("the agent's stream ended without a result")
    return last


def _metadata(call: Call) -> Metadata:
    metadata = [("idempotency-key", header_text(call.idempotency_key))]
    metadata.append(("x-request-timeout-ms", str(max(1, int(call.timeout_s * 1000)))))
    metadata += [_metadatum(name, value) for name, value in call.headers]
    return metadata


def _metadatum(name: str, value: str) -> tuple[str, str]:
    """A header in the form of gRPC metadata."""
    low = name.lower()
    reserved = low.startswith("grpc-") or low.endswith("-bin")
    if reserved or not (_NAME.fullmatch(low) and value.isascii() and value.isprintable()):
        raise Unsupported(f"header {excerpt(name.encode())} cannot be sent as gRPC metadata")
    return low, value
