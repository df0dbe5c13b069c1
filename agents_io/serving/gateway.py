"""An agent that dials in: it holds a stream to a worker's gRPC port and answers the requests on it.

In: gateways, tried in turn; after each loss it dials again with jittered backoff. Out: results, or errors with the
gateway's codes. A cancelled request is cancelled here. The agent needs no address.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict

from agents_io.grpc.services import method
from agents_io.serving.answers import CallFailed, Reply
from agents_io.serving.runs import Served
from agents_io.transport import CONTEXT_HEADER
from schemas.exact_json import dumps, loads
from schemas.pb import gateway_pb2
from schemas.pb.gateway_pb2 import AgentHeartbeat, AgentHello, AgentToControlPlane, TaskError, TaskRequest, TaskResult

log = logging.getLogger(__name__)

HEARTBEAT_MS = 5000
MISSED = 4
"""A gateway that pings, and is silent for so many heartbeats, is left: nothing ends the stream of a machine that is gone."""
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0
CONNECT_TIMEOUT_S = 15.0
FLUSH_LOOKS = 200
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A larger one would end the stream, with every call on it."""
_CODES = {400: "INVALID_ARGUMENT", 422: "FAILED_PRECONDITION", 429: "BUSY", 503: "DRAINING", 504: "TIMEOUT"}


class DialFailed(Exception):
    """The gateway refuses this agent, with the reason."""


class GatewayAgent:
    """`async with GatewayAgent(agent, ["worker:50051"])`: connected once inside. Raises `DialFailed`, `TimeoutError`."""

    def __init__(
        self,
        agent: Served,
        gateways: Sequence[str],
        *,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        stop_timeout: float = 20.0,
    ) -> None:
        if not gateways:
            raise ValueError("dial: needs a worker's gRPC address, such as worker:50051")
        self._agent = agent
        self._gateways = list(gateways)
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._credentials = credentials
        self._stop_timeout = stop_timeout
        self._runs = agent.runs()
        self._outbox: asyncio.Queue[AgentToControlPlane] = asyncio.Queue()
        self._working: dict[str, asyncio.Task[None]] = {}
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._node = ""
        self._failure = "no answer"

    @property
    def ready_line(self) -> str:
        """The line to print once it is connected."""
        return f"agent {self._agent.id} is connected to {', '.join(self._gateways)} (worker {self._node})"

    async def failed(self) -> None:
        """Wait until a gateway refuses the agent; raises `DialFailed`."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._dial(), name="agent-dial")
        connected = asyncio.ensure_future(self._connected.wait())
        done, _ = await asyncio.wait(
            (self._task, connected), timeout=CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        connected.cancel()
        if self._task in done:
            await self._task
        if not done:
            self._task.cancel()
            where = f"no gateway accepts the agent at {', '.join(self._gateways)}"
            raise TimeoutError(f"{where}: {self._failure}; is a worker's --grpc-port there?")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Report draining, let calls finish, disconnect."""
        self._beat("draining")
        await self._runs.drain(self._stop_timeout)
        if self._working:
            await asyncio.wait(tuple(self._working.values()), timeout=1.0)
        await self._flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _flush(self) -> None:
        """Wait until the last answers are sent, within bounded time."""
        for _ in range(FLUSH_LOOKS):
            if self._outbox.empty() or self._task is None or self._task.done():
                return
            await asyncio.sleep(0.01)

    async def _dial(self) -> None:
        turn, pause_s = 0, FIRST_PAUSE_S
        while True:
            address = self._gateways[turn % len(self._gateways)]
            turn += 1
            self._connected.clear()
            try:
                await self._hold(address)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                    raise DialFailed(f"{address} refuses agent {self._agent.id}: {error.details()}") from None
                self._failure = f"{error.code().name} {error.details()}"
                log.info("%s: %s", address, self._failure)
            except TimeoutError:
                log.warning("%s: silent for %.3g s; dialling again", address, MISSED * HEARTBEAT_MS / 1000)
            pause_s = FIRST_PAUSE_S if self._connected.is_set() else min(MAX_PAUSE_S, pause_s * 2)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))

    async def _hold(self, address: str) -> None:
        async with self._channel(address) as channel:
            stream = method(channel, gateway_pb2, "AgentGateway", "Connect")(metadata=self._metadata)
            self._outbox = asyncio.Queue()
            hello = AgentHello(
                agent_id=self._agent.id,
                agent_name=self._agent.id,
                capabilities=self._agent.capabilities,
                heartbeat_interval_ms=HEARTBEAT_MS,
            )
            self._outbox.put_nowait(AgentToControlPlane(request_id="hello", hello=hello))
            helpers = [asyncio.create_task(self._write(stream)), asyncio.create_task(self._heartbeats())]
            patience_s: float | None = None  # until it has sent a ping
            try:
                while True:
                    async with asyncio.timeout(patience_s):
                        message = await stream.read()
                    if message is grpc.aio.EOF:
                        break
                    if message.WhichOneof("payload") == "ping":
                        patience_s = MISSED * HEARTBEAT_MS / 1000
                    self._take(message)
            finally:
                left = [*helpers, *self._working.values()]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                stream.cancel()

    def _channel(self, address: str) -> grpc.aio.Channel:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._credentials, options=options)

    async def _write(self, stream: Any) -> None:
        while True:
            await stream.write(await self._outbox.get())

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_MS / 1000)
            self._beat()

    def _beat(self, status: str = "") -> None:
        status = status or ("draining" if self._runs.draining else "healthy")
        load = min(1.0, self._runs.in_flight / self._agent.concurrency)
        beat = AgentHeartbeat(agent_id=self._agent.id, load=load, status=status)
        self._outbox.put_nowait(AgentToControlPlane(heartbeat=beat))

    def _take(self, message: gateway_pb2.ControlPlaneToAgent) -> None:
        kind = message.WhichOneof("payload")
        if kind == "ack":
            if not message.ack.accepted:
                raise DialFailed(f"the gateway refuses agent {self._agent.id}: {message.ack.message}")
            self._node = message.ack.assigned_node_id
            self._connected.set()
        elif kind == "task_request":
            request_id = message.request_id
            task = asyncio.create_task(self._work(request_id, message.task_request), name="agent-request")
            self._working[request_id] = task
            task.add_done_callback(lambda _: self._working.pop(request_id, None))
        elif kind == "cancel_task":
            if message.request_id in self._working:
                self._working[message.request_id].cancel()
        elif kind == "ping":
            self._beat()

    async def _work(self, request_id: str, request: TaskRequest) -> None:
        answer = AgentToControlPlane(request_id=request_id)
        key = request.context.get("idempotencyKey", "") or request.task_id
        try:
            timeout_s = request.timeout_ms / 1000 if request.timeout_ms > 0 else None
            reply = await self._runs.run(key, payload_of(request), timeout_s, request.context.get(CONTEXT_HEADER, ""))
            answer.task_result.CopyFrom(_result(request.task_id, reply))
            if (size := answer.ByteSize()) > MAX_MESSAGE_BYTES:
                raise CallFailed(422, f"the answer takes {size} bytes, more than the {MAX_MESSAGE_BYTES} of a message")
        except CallFailed as failed:
            code = _CODES.get(failed.status, "INTERNAL")
            later = "" if failed.retry_after_s is None else f"; try again in {failed.retry_after_s}s"
            error = TaskError(task_id=request.task_id, error_code=code, error_message=f"{failed}{later}")
            answer.task_error.CopyFrom(error)
        self._outbox.put_nowait(answer)


def payload_of(request: TaskRequest) -> Any:
    """The task's payload as far as the protocol carries it: its data, together with the description if that came
    separately.

    >>> request = TaskRequest(task_description="sum")
    >>> request.data.update({"n": 1})
    >>> payload_of(request)
    {'task': 'sum', 'data': {'n': 1}}
    """
    data = _whole(MessageToDict(request.data))
    payload: Any = data["value"] if data.keys() == {"value"} else data
    description = request.task_description
    if isinstance(payload, dict) and description not in (
        "",
        "analyze",
        payload.get("task"),
        payload.get("description"),
    ):
        payload = {"task": description, "data": payload}
    context = {
        name: _json(request.context[name]) for name in ("previous", "results", "input") if name in request.context
    }
    if not context:
        return payload
    return {**payload, "context": context} if isinstance(payload, dict) else {"payload": payload, "context": context}


def _whole(value: Any) -> Any:
    """Turns whole doubles back into integers: the protocol has only doubles."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


def _json(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return text


def _result(task_id: str, reply: Reply) -> TaskResult:
    return TaskResult(
        task_id=task_id,
        value_json=dumps(reply.value).decode(),
        confidence=reply.confidence,
        reasoning=reply.reasoning,
    )


def credentials(ca_file: str | None, cert_file: str | None, key_file: str | None) -> grpc.ChannelCredentials | None:
    """TLS for the stream; None without `ca_file`: plain text. Raises OSError, ValueError."""
    if ca_file is None:
        if cert_file is not None or key_file is not None:
            raise ValueError("cert_file and key_file need ca_file")
        return None
    if (cert_file is None) != (key_file is None):
        raise ValueError("cert_file and key_file belong together")
    ca, cert, key = (None if name is None else Path(name).read_bytes() for name in (ca_file, cert_file, key_file))
    return grpc.ssl_channel_credentials(ca, key, cert)
