"""From worker to worker: a call for an agent whose stream another worker holds. Transport only, at both ends.

In: at the caller's end a `Route` and a TaskRequest; at the holder's end the same over gRPC. Out: the agent's own message, or what
`Gateway.ask` raises. It keeps no call, repeats none, and writes no result: those are the partition's business.

The method is `parallax.internal.GatewayRelay/Ask`: a TaskRequest for an AgentToControlPlane, with `agent-bin`, `node` and
`authorization` as metadata.
It is no open relay: at most `max_calls` at once, only for the `node` the caller means, and only for callers that show the shared
token or, where none is set, that call from this machine.

  NOT_FOUND, FAILED_PRECONDITION  not here (another node answers at this address)    NotHere: nothing was sent
  UNAVAILABLE, CANCELLED          the worker, or the way to it, is gone              StreamLost, no blame
  ABORTED                         the agent hung up                                  StreamLost, blame
  RESOURCE_EXHAUSTED              too many calls                                     TooMany
  DEADLINE_EXCEEDED               the agent gave no answer in time                   TimeoutError
    without the holder's word     the worker is frozen                               StreamLost, no blame
  a TLS handshake that failed     there is a worker, but we do not trust it          InternalError, not the agent's fault
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import orjson
import structlog

from agents_io.errors import AnswerTooLarge, InternalError, Unsupported
from agents_io.grpc.bearer import MOST_WRONG, objection
from agents_io.grpc.channels import ChannelKey, Channels
from agents_io.grpc.credentials import GrpcCredentials
from agents_io.grpc.status import connection_failure
from agents_io.protocols.gateway.service import Gateway
from agents_io.protocols.gateway.stream import NotHere, StreamLost, TooMany
from agents_io.rules.wrong_tokens import WrongTokens
from agents_io.secret_refs import Secret
from agents_io.tls import TlsFiles
from schemas.pb.gateway_pb2 import AgentToControlPlane, TaskRequest

log = structlog.get_logger(__name__)

SERVICE = "parallax.internal.GatewayRelay"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
SURPLUS_S = 0.5
"""How much longer than the call itself the hop may last: the holder's answer should come first."""
NOT_SHOWN = "gateway.relay_token: missing or wrong"
_SILENT = "the agent did not answer in time"
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    # Without these gRPC waits a minute for the answer to a ping, and a minute between pings of a call without data.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""A worker whose machine disappeared silently ends its calls within seconds, not at their deadlines."""
_HOP_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_UNTRUSTED = ("handshake failed", "verification check failed")
"""gRPC's text when a server is at the address and its TLS handshake fails."""
_NOT_HERE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})


@dataclass(frozen=True, slots=True)
class Route:
    """Where an agent is connected: a worker's `host:port`, its `node` name for this run, and the connection's `key`."""

    address: str
    node: str
    key: str


class RelayService:
    """The holder's end: `handler()` goes into the worker's gRPC server."""

    def __init__(self, gateway: Gateway, token: Secret | None, *, max_calls: int = 10_000) -> None:
        self._gateway = gateway
        self._token = token
        self._wrong = WrongTokens(MOST_WRONG)
        self._max_calls = max_calls
        self._calls = 0

    def handler(self) -> grpc.GenericRpcHandler:
        ask = grpc.unary_unary_rpc_method_handler(
            self._ask,
            request_deserializer=TaskRequest.FromString,
            response_serializer=AgentToControlPlane.SerializeToString,
        )
        presence: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._presence)
        return grpc.method_handlers_generic_handler(SERVICE, {"Ask": ask, "Presence": presence})

    async def _ask(self, request: TaskRequest, context: Any) -> AgentToControlPlane:
        agent_id = await self._meant(context)
        if self._calls >= self._max_calls:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "this worker has reached its limit of relayed calls"
            )
        self._calls += 1
        code, why = grpc.StatusCode.INTERNAL, ""
        try:
            return await self._gateway.ask(agent_id, request, request.timeout_ms / 1000)
        except NotHere:
            code = grpc.StatusCode.NOT_FOUND
        except TooMany:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
        except StreamLost as lost:
            code, why = grpc.StatusCode.ABORTED if lost.blame else grpc.StatusCode.UNAVAILABLE, lost.why
        except TimeoutError:
            code, why = grpc.StatusCode.DEADLINE_EXCEEDED, _SILENT
        finally:
            self._calls -= 1
        await context.abort(code, why)
        raise AssertionError("abort raises")

    async def _presence(self, _: bytes, context: Any) -> bytes:
        found = self._gateway.presence(await self._meant(context))
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "")
            raise AssertionError("abort raises")
        return orjson.dumps({"status": found.status, "load": found.load, "outstanding": found.outstanding})

    async def _meant(self, context: Any) -> str:
        """The agent's id, if the caller may ask for it here."""
        given = dict(context.invocation_metadata() or ())
        if self._token is None:
            if not _same_machine(context.peer()):
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "workers on other machines need the shared token: gateway.relay_token",
                )
        elif (refused := objection(context, self._token, self._wrong, NOT_SHOWN)) is not None:
            await context.abort(*refused)
        if given.get("node") != self._gateway.node:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "another worker has this address now")
        raw = given.get("agent-bin", b"")
        return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


class RelayClient:
    """The caller's end: one channel per worker, kept while it is used; many calls share it."""

    def __init__(self, token: Secret | None = None, *, tls: TlsFiles | None = None, name: str | None = None) -> None:
        """`tls`: which CA to trust for other workers, and which certificate to show; None: plain text. `name`: the name
        in their certificate, if it is not the host.
        """
        self._token = token
        self._tls = tls
        self._made = GrpcCredentials()
        self._credentials: grpc.ChannelCredentials | None = None
        self._said = ""
        named = () if name is None else (("grpc.ssl_target_name_override", name),)
        self._channels = Channels(max_message_bytes=MAX_MESSAGE_BYTES, options=(*KEEPALIVE, *named))

    async def ask(self, route: Route, agent_id: str, request: TaskRequest, timeout_s: float) -> AgentToControlPlane:
        """One call. Raises `NotHere`, `TooMany`, `StreamLost`, `TimeoutError`, `AgentError`; cancelling it reaches the agent."""
        request.timeout_ms = max(1, min(int(timeout_s * 1000), 2**31 - 1))
        raw = await self._exchange("Ask", route, agent_id, request.SerializeToString(), timeout_s + SURPLUS_S)
        return AgentToControlPlane.FromString(raw)

    async def presence(self, route: Route, agent_id: str, timeout_s: float) -> dict[str, Any] | None:
        """`{status, load, outstanding}` from the worker that holds the stream; None: it holds none, or does not answer."""
        try:
            found: dict[str, Any] = orjson.loads(await self._exchange("Presence", route, agent_id, b"", timeout_s))
        except (NotHere, TooMany, StreamLost, TimeoutError, orjson.JSONDecodeError):
            return None
        return found

    async def close(self) -> None:
        await self._channels.close()

    async def _exchange(self, method: str, route: Route, agent_id: str, raw: bytes, timeout_s: float) -> bytes:
        given: list[tuple[str, str | bytes]] = [("agent-bin", agent_id.encode()), ("node", route.node)]
        if self._token is not None:
            given.append(("authorization", f"Bearer {self._token.token()}"))
        line = self._channels.take(ChannelKey(route.address, self._trusted()))
        failed = False
        try:
            answer: bytes = await line.method(f"/{SERVICE}/{method}")(raw, timeout=timeout_s, metadata=given)
        except grpc.aio.AioRpcError as error:
            failed = error.code() in _HOP_LOST
            raise _meaning(error, route) from None
        except asyncio.CancelledError:
            # gRPC raises this too when the channel was closed during the call.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            failed = True
            raise StreamLost("the channel to the worker was closed", blame=False) from None
        finally:
            self._channels.give_back(line, failed=failed)
        return answer

    def _trusted(self) -> grpc.ChannelCredentials | None:
        """The credentials from the files as they are now. If the files cannot be used, the last good ones stay in
        use.
        """
        if self._tls is None:
            return None
        try:
            self._credentials = self._made.get(self._tls)
            self._said = ""
        except Unsupported as error:
            if self._credentials is None:
                raise InternalError(f"this worker cannot call other workers: grpc_{error.message}") from None
            if error.message != self._said:
                self._said = error.message
                log.error("the changed certificates for calls to other workers cannot be used", reason=self._said)
        return self._credentials


def _meaning(error: grpc.aio.AioRpcError, route: Route) -> Exception:
    code, details = error.code(), (error.details() or "")[:200]
    if code in _NOT_HERE:
        return NotHere()
    if code in _HOP_LOST:
        if any(words in (error.details() or "").lower() for words in _UNTRUSTED):
            why = connection_failure(error.details() or "")[:200]
            return InternalError(
                f"the worker at {route.address} is not trusted, or speaks no TLS: {why}; "
                "see grpc_tls.ca_file and grpc_tls.worker_name"
            )
        return StreamLost(details or f"the worker at {route.address} is gone", blame=False)
    if code is grpc.StatusCode.ABORTED:
        return StreamLost(details, blame=True)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Either end of the hop may report it, for the call or for the answer.
        return (
            AnswerTooLarge(f"too large to be relayed between workers: {details}")
            if "larger than" in details
            else TooMany()
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        if details == _SILENT:
            return TimeoutError()
        return StreamLost(f"the worker at {route.address} did not answer", blame=False)
    return InternalError(f"the worker at {route.address} did not take the call: {code.name} {details}")


def _same_machine(peer: str) -> bool:
    """Whether a gRPC peer is this machine.

    >>> [_same_machine(peer) for peer in ("ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5", "unix:", "ipv4:10.0.0.1:5")]
    [True, True, True, False]
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind == "unix":
        return True
    try:
        return ip_address(rest.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return False
