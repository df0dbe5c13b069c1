"""A scripted agent that dials in, for tests: it holds a stream to a gateway and answers, fails, hangs or lies as its script
has it.

In: the steps of `steps`, as for the HTTP agent; a status becomes a TaskError with its number as code. Out: results on the
stream, and the same log of calls. `reset` cuts the stream; then it dials again, after `redial_s`. What a TaskResult cannot say
(a confidence that is no number) is a slip in the test. It serves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import orjson
from google.protobuf.json_format import MessageToDict

from agents_io.fakes.http import FakeAgent, Received
from agents_io.fakes.steps import ScriptStep
from agents_io.grpc.services import method
from schemas.pb import gateway_pb2
from schemas.pb.gateway_pb2 import AgentHeartbeat, AgentHello, AgentToControlPlane, TaskError, TaskRequest, TaskResult

HUGE_BYTES = 4 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0


class GatewayFakeAgent(FakeAgent):
    """`async with GatewayFakeAgent("a", [answer()], gateways=["127.0.0.1:50051"]) as agent:` is connected inside.

    `gateways`: dialled in turn, the next one after each loss. `credentials`: for gateways behind TLS, with gRPC's own
    `channel_options`. `mute`: send no heartbeat and answer no ping.
    """

    def __init__(
        self,
        agent_id: str,
        steps: ScriptStep | Sequence[ScriptStep] = (),
        *,
        gateways: Sequence[str],
        token: str = "",
        interval_ms: int = 1000,
        redial_s: float = 0.05,
        hello: AgentHello | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        **options: Any,
    ) -> None:
        super().__init__(steps, **options)
        self.agent_id = agent_id
        self.acks: list[gateway_pb2.ServerAck] = []
        self.cancels: list[gateway_pb2.CancelTask] = []
        self.pings = 0
        self.status = "healthy"
        self.load = 0.0
        self.mute = False
        self.gateways = list(gateways)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._credentials = credentials
        self._channel_options = [("grpc.use_local_subchannel_pool", 1), *channel_options]
        self._interval_ms = interval_ms
        self._redial_s = redial_s
        self._hello = hello or AgentHello(
            agent_id=agent_id,
            agent_name=agent_id.title(),
            capabilities=options.get("capabilities", ()),
            heartbeat_interval_ms=interval_ms,
        )
        self._dials = 0
        self._run: asyncio.Task[None] | None = None
        self._stream: Any = None
        self._outbox: asyncio.Queue[AgentToControlPlane] = asyncio.Queue()
        self._working: dict[str, asyncio.Task[None]] = {}
        self._connected = asyncio.Event()

    @property
    def accepted(self) -> int:
        """How often it was taken in."""
        return sum(ack.accepted for ack in self.acks)

    async def __aenter__(self) -> Self:
        self._run = asyncio.create_task(self._dial_for_ever())
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self._connected.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)

    def cut(self) -> None:
        """Cut the stream, as a crash would; it dials again."""
        if self._stream is not None:
            self._stream.cancel()

    def say(self, message: AgentToControlPlane) -> None:
        self._outbox.put_nowait(message)

    def beat(self) -> None:
        self.say(
            AgentToControlPlane(heartbeat=AgentHeartbeat(agent_id=self.agent_id, load=self.load, status=self.status))
        )

    async def _dial_for_ever(self) -> None:
        while True:
            address = self.gateways[self._dials % len(self.gateways)]
            self._dials += 1
            try:
                await self._hold(address)
            except grpc.aio.AioRpcError:
                pass  # refused, or no server there: dial again
            except asyncio.CancelledError:
                # gRPC raises this too when our own cut ended the stream.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            await asyncio.sleep(self._redial_s)

    async def _hold(self, address: str) -> None:
        async with self._channel(address) as channel:
            stream = method(channel, gateway_pb2, "AgentGateway", "Connect")(metadata=self._metadata)
            self._stream, self._outbox = stream, asyncio.Queue()
            writer = asyncio.create_task(self._write(stream))
            beating = asyncio.create_task(self._beat())
            try:
                self.say(AgentToControlPlane(request_id="hello", hello=self._hello))
                while (message := await stream.read()) is not grpc.aio.EOF:
                    self._take(message)
            finally:
                for task in (writer, beating, *self._working.values()):
                    task.cancel()
                await asyncio.gather(writer, beating, *self._working.values(), return_exceptions=True)
                stream.cancel()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=self._channel_options)
        return grpc.aio.secure_channel(address, self._credentials, options=self._channel_options)

    def _take(self, message: gateway_pb2.ControlPlaneToAgent) -> None:
        kind = message.WhichOneof("payload")
        if kind == "ack":
            self.acks.append(message.ack)
            self._connected.set()
        elif kind == "task_request":
            task = asyncio.create_task(self._work(message.request_id, message.task_request))
            self._working[message.request_id] = task
            task.add_done_callback(lambda _: self._working.pop(message.request_id, None))
        elif kind == "cancel_task":
            self.cancels.append(message.cancel_task)
            if message.request_id in self._working:
                self._working[message.request_id].cancel()
        elif kind == "ping":
            self.pings += 1
            if not self.mute:
                self.beat()

    async def _write(self, stream: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await stream.write(await self._outbox.get())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._interval_ms / 1000)
            if not self.mute:
                self.beat()

    async def _work(self, request_id: str, request: TaskRequest) -> None:
        key = request.context["idempotencyKey"]
        step = self._step_for(key)
        data = MessageToDict(request.data)
        payload = data["value"] if data.keys() == {"value"} else data
        received = Received(time.time(), key, dict(request.context), request, step.kind)
        self.calls.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._perform(step, payload, request_id, request.task_id)
            received.ended, received.code = "answered", step.code
        except asyncio.CancelledError:
            received.ended = "dropped" if step.kind == "reset" else "closed"
            raise
        finally:
            self.in_flight -= 1
            received.ended_at = time.time()
            if self._log is not None:
                self._log.write(json.dumps(received.line()) + "\n")
                self._log.flush()

    async def _perform(self, step: ScriptStep, payload: Any, request_id: str, task_id: str) -> None:
        if step.delay_s > 0:
            await asyncio.sleep(step.delay_s)
        if step.kind == "reset":
            self.cut()
        if step.kind in ("hang", "drip", "reset"):
            await asyncio.Event().wait()
        answer = AgentToControlPlane(request_id=request_id)
        if step.kind == "status":
            message = step.body.decode("utf-8", "replace") if isinstance(step.body, bytes) else str(step.body)
            answer.task_error.CopyFrom(TaskError(task_id=task_id, error_code=str(step.code), error_message=message))
        else:
            body = step.compute(payload) if step.compute is not None else step.body
            answer.task_result.CopyFrom(_result(step, body, task_id))
        self.say(answer)


def _result(step: ScriptStep, body: Any, task_id: str) -> TaskResult:
    if step.kind == "huge":
        return TaskResult(task_id=task_id, value_json='"' + "x" * (step.size or HUGE_BYTES) + '"', confidence=0.5)
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except ValueError:
            return TaskResult(task_id=task_id, value_json=body.decode("utf-8", "replace"), confidence=0.5)
    rest = {key: value for key, value in body.items() if key in ("reasoning", "metadata")}
    try:
        value_json = orjson.dumps(body.get("value"))
    except TypeError:  # nested deeper than orjson writes
        value_json = json.dumps(body.get("value")).encode()
    return TaskResult(task_id=task_id, value_json=value_json.decode(), confidence=body["confidence"], **rest)
