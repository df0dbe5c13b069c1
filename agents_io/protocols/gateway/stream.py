"""One agent's stream as the gateway holds it: its session, its write queue, and the requests that wait for an answer.

In: messages for the agent, requests that begin and end. Out: writes, one at a time, with a ping when there is nothing
to send; an answer or `StreamLost` for each request. Each stream has its own queue and writer, so an agent that does not
read delays no other. It does not decide who may connect.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from agents_io.protocols.gateway.rules.session import NotOpen, Session, SessionConfig, TooManyOutstanding
from schemas.pb.gateway_pb2 import AgentToControlPlane, CancelTask, ControlPlaneToAgent, Ping, ServerAck, TaskRequest

GOODBYE_TIMEOUT_S = 2.0
"""How long the last message to an agent may take."""


class NotHere(Exception):
    """The agent takes no requests on this worker: it is not connected here, or is leaving. Nothing was sent."""


class TooMany(Exception):
    """The agent's stream has reached its limit of open requests. Nothing was sent."""


class StreamLost(Exception):
    """The stream ended while the agent worked. `blame`: the agent went away, and this is the first report of it."""

    def __init__(self, why: str, blame: bool) -> None:
        super().__init__(why)
        self.why = why
        self.blame = blame


class Stream:
    """One connection: its session, its write queue, and the requests that wait."""

    def __init__(self, key: str, config: SessionConfig) -> None:
        self.session = Session(key, time.monotonic(), config)
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.waiting: dict[str, asyncio.Future[AgentToControlPlane]] = {}
        self._outbox: deque[ControlPlaneToAgent] = deque()
        self._wake = asyncio.Event()
        self._last_word = False
        self.code = grpc.StatusCode.OK
        self.why = ""

    async def ask(self, request: TaskRequest, timeout_s: float) -> AgentToControlPlane:
        """Send one request. Raises `NotHere`, `TooMany`, `StreamLost`, `TimeoutError`. On a timeout or a cancellation
        the agent is sent a cancel.
        """
        async with asyncio.timeout(timeout_s) as limit:
            await self.ready.wait()
            try:
                request_id = self.session.begin(request.task_id)
            except NotOpen:
                raise NotHere from None
            except TooManyOutstanding:
                raise TooMany from None
            future: asyncio.Future[AgentToControlPlane] = asyncio.get_running_loop().create_future()
            self.waiting[request_id] = future
            self.send(ControlPlaneToAgent(request_id=request_id, task_request=request))
            try:
                return await future
            except asyncio.CancelledError:
                if self.session.abandon(request_id):
                    reason = "the deadline passed" if limit.expired() else "the task was cancelled"
                    self._cancel(request_id, request.task_id, reason)
                raise
            finally:
                del self.waiting[request_id]

    def answered(self, message: AgentToControlPlane) -> None:
        """A result or an error came: give it to its open request, or ignore it."""
        if self.session.settle(message.request_id):
            future = self.waiting.get(message.request_id)
            if future is not None and not future.done():
                future.set_result(message)

    def send(self, message: ControlPlaneToAgent) -> None:
        self._outbox.append(message)
        self._wake.set()

    def _cancel(self, request_id: str, task_id: str, reason: str) -> None:
        """Send the agent a cancel. If the task itself is still unsent, send neither."""
        for message in self._outbox:
            if message.request_id == request_id:
                self._outbox.remove(message)
                return
        self.send(ControlPlaneToAgent(request_id=request_id, cancel_task=CancelTask(task_id=task_id, reason=reason)))

    def end(self, why: str, blame: bool, code: grpc.StatusCode = grpc.StatusCode.OK, last: str = "") -> None:
        """Accept no more requests, and end those that wait. `last`: sent to the agent, as a refusal, before the stream closes."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.ready.set()
        self.why, self.code = why, code
        self.session.close()
        self._outbox.clear()
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(StreamLost(why, blame))
                future.exception()  # retrieved, also if its waiter is being cancelled now
                blame = False  # one hang-up is one failure, however many requests it cost
        if last:
            self.send(ControlPlaneToAgent(ack=ServerAck(accepted=False, message=last)))
        self._last_word = True
        self._wake.set()

    async def write(self, context: Any) -> None:
        """Write all messages in order, and a ping when there is none; returns after the last message."""
        while True:
            self._wake.clear()
            while self._outbox:
                message = self._outbox.popleft()
                async with asyncio.timeout(self.session.config.missed * self.session.interval_s):
                    await context.write(message)
            if self._last_word:
                return
            try:
                async with asyncio.timeout(self.session.interval_s):
                    await self._wake.wait()
            except TimeoutError:
                if not self.ready.is_set():
                    continue  # the ack comes first
                self.send(ControlPlaneToAgent(request_id=f"{self.session.key}-ping", ping=Ping(server_time=_now())))


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
