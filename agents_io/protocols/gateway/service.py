"""`AgentGateway.Connect`: agents without an address dial in to any worker, and are asked through their stream.

In: streams of `AgentToControlPlane`; requests for an agent that is connected here. Out: the agent's own message in answer, or
`NotHere`, `StreamLost`, `TooMany`. Who may connect, and where the others find the agent, is the `Registrar`'s business; what a
session may do is `rules/session.py`'s. It reads no answer's content and writes to no topic.

The newest connection of an agent holds it. An agent that does not read is cut off when one write lasts as long as it takes to
count as lost.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from agents_io.grpc.bearer import MOST_WRONG, bearer_of, objection
from agents_io.protocols.gateway.rules.session import SessionConfig, Status
from agents_io.protocols.gateway.stream import GOODBYE_TIMEOUT_S, NotHere, Stream
from agents_io.rules.wrong_tokens import WrongTokens
from agents_io.secret_refs import Secret
from schemas.pb.gateway_pb2 import AgentHello, AgentToControlPlane, ControlPlaneToAgent, ServerAck, TaskRequest

log = structlog.get_logger(__name__)

HELLO_TIMEOUT_S = 15.0
"""How long a connection may take to send hello, and then to be registered."""
OPENING_LOOK_S = 0.25
COUNTED = ("answered", "late", "unknown", "stray")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that asks to be taken. `key` names the connection; `metadata` is the agent's own."""

    key: str
    agent_id: str
    name: str
    capabilities: tuple[str, ...]
    metadata: Mapping[str, str]
    token: str
    """The token sent as `authorization: Bearer`; empty without one."""


@dataclass(frozen=True, slots=True)
class Presence:
    """What is known of an agent that is connected here, for choosing among agents. `load`: its own figure, None if unknown."""

    status: Status
    load: float | None
    outstanding: int


class NotNow(Exception):
    """The agent may connect, but not at the moment: it gets UNAVAILABLE with this sentence, and dials again."""


class Registrar(Protocol):
    """Makes an agent known to all workers."""

    def admit(self, arrival: Arrival) -> str | None:
        """None, or why it may not connect, as a sentence for the agent. Raises `NotNow`."""
        ...

    async def arrived(self, arrival: Arrival) -> str | None:
        """Make it known. None once every worker can find it, or why it may not connect. Raises `NotNow`."""
        ...

    def changed(self, agent_id: str, key: str, status: Status) -> None:
        """The agent reported a new status."""
        ...

    def left(self, agent_id: str, key: str, why: str) -> None:
        """The agent's stream is over, and no newer one has replaced it here."""
        ...


class Gateway:
    """Every agent connected to this worker. `node`: this worker's name for this run, unlike any other's."""

    def __init__(
        self,
        node: str,
        registrar: Registrar,
        *,
        config: SessionConfig | None = None,
        max_sessions: int = 10_000,
        token: Secret | None = None,
    ) -> None:
        """`token`: what every agent must show as `authorization: Bearer`; None: the registrar alone decides."""
        self.node = node
        self.refused = 0
        self._registrar = registrar
        self._config = config or SessionConfig()
        self._max_sessions = max_sessions
        self._token = token
        self._wrong = WrongTokens(MOST_WRONG)
        self._streams: dict[str, Stream] = {}
        self._all: set[Stream] = set()
        self._past: Counter[str] = Counter()
        self._closing = False

    # Called by others

    def key_of(self, agent_id: str) -> str | None:
        """The key of the connection that holds this agent here, or None."""
        stream = self._streams.get(agent_id)
        return stream.session.key if stream is not None else None

    def presence(self, agent_id: str) -> Presence | None:
        """Status and load of an agent that is connected here; None if it is not."""
        stream = self._streams.get(agent_id)
        if stream is None or not stream.ready.is_set():
            return None
        session = stream.session
        return Presence(session.status, session.load, session.outstanding)

    def present(self) -> dict[str, Presence]:
        return {name: found for name in self._streams if (found := self.presence(name)) is not None}

    def counters(self) -> dict[str, int]:
        """Counts since the start: answers in time, late answers, answers to no request, messages out of order,
        refusals.
        """
        found = {name: self._past[name] + sum(getattr(s.session.counters, name) for s in self._all) for name in COUNTED}
        return found | {"refused": self.refused}

    async def ask(self, agent_id: str, request: TaskRequest, timeout_s: float) -> AgentToControlPlane:
        """Send one request. Raises `NotHere`, `TooMany`, `StreamLost`, `TimeoutError`. On a timeout or a cancellation
        the agent is sent a cancel.
        """
        stream = self._streams.get(agent_id)
        if stream is None or self._closing:
            raise NotHere
        return await stream.ask(request, timeout_s)

    def drop(self, agent_id: str, key: str, why: str) -> None:
        """Another connection has replaced this one, or the agent was removed: send the reason and close, without
        blame.
        """
        stream = self._streams.get(agent_id)
        if stream is not None and stream.session.key == key:
            del self._streams[agent_id]
            stream.end(why, blame=False, last=why)

    async def close(self, drain_s: float = 0.0) -> None:
        """Take no new request; let those under way end within `drain_s` seconds; then close every stream."""
        self._closing = True
        end = time.monotonic() + drain_s
        while any(stream.waiting for stream in self._streams.values()) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for stream in list(self._streams.values()):
            stream.end("the worker is stopping", blame=False, code=grpc.StatusCode.UNAVAILABLE)
        end = time.monotonic() + GOODBYE_TIMEOUT_S
        while self._all and time.monotonic() < end:  # noqa: ASYNC110 - the handlers end by themselves
            await asyncio.sleep(0.01)

    # Called for agents

    async def connect(self, requests: Any, context: Any) -> None:
        """The method behind `AgentGateway.Connect`; lasts as long as the stream does."""
        if self._closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this worker is stopping; connect to another")
        if len(self._all) >= self._max_sessions:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "this worker has reached its limit of connected agents"
            )
        refused = objection(context, self._token, self._wrong)
        if refused is not None:
            self.refused += 1
            await context.abort(*refused)
        stream = Stream(secrets.token_hex(8), self._config)
        self._all.add(stream)
        writer = asyncio.create_task(stream.write(context), name="gateway-write")
        reader = asyncio.create_task(self._read(stream, context, bearer_of(context)), name="gateway-read")
        try:
            await self._watch(stream, writer, reader)
        finally:
            self._leave(stream)
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        context.set_code(stream.code)
        context.set_details(stream.why[:200])

    async def _watch(self, stream: Stream, writer: asyncio.Task[None], reader: asyncio.Task[None]) -> None:
        """Wait until the stream is over, then until the last message is sent."""
        ended = asyncio.create_task(stream.ended.wait())
        try:
            while not stream.ended.is_set():
                left_s = stream.session.lost_at - time.monotonic()
                if stream.session.state in ("new", "opening"):
                    left_s = stream.session.heard_at + HELLO_TIMEOUT_S - time.monotonic()
                if left_s <= 0:
                    why = "its heartbeats stopped" if stream.session.agent_id else "it sent no hello"
                    stream.end(why, blame=True, code=grpc.StatusCode.UNAVAILABLE)
                    return
                # After the hello, a different deadline applies.
                look_s = left_s if stream.ready.is_set() else min(left_s, OPENING_LOOK_S)
                done, _ = await asyncio.wait(
                    (writer, reader, ended), timeout=look_s, return_when=asyncio.FIRST_COMPLETED
                )
                if writer in done:
                    stuck = not writer.cancelled() and isinstance(writer.exception(), TimeoutError)
                    stream.end("it does not read what it is sent" if stuck else "its stream broke", blame=True)
                elif reader in done:
                    broken = None if reader.cancelled() else reader.exception()
                    if broken is not None:  # an invalid message, or a fault of ours
                        log.warning("an agent's stream failed", agent_id=stream.session.agent_id, error=repr(broken))
                    stream.end("it hung up", blame=True)
            await asyncio.wait((writer,), timeout=GOODBYE_TIMEOUT_S)
        finally:
            ended.cancel()

    async def _read(self, stream: Stream, context: Any, shown: str) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("payload")
            if kind == "hello" and stream.session.state == "new":
                await self._welcome(stream, message.hello, message.request_id, shown)
            elif not stream.session.heard(time.monotonic()):
                stream.end("the first message must be hello", blame=False, last="the first message must be hello")
            else:
                self._take(stream, kind, message)
            if stream.ended.is_set():
                await asyncio.Event().wait()  # until the watch ends this task

    def _take(self, stream: Stream, kind: str | None, message: AgentToControlPlane) -> None:
        session = stream.session
        if kind in ("task_result", "task_error"):
            stream.answered(message)
        elif kind == "heartbeat":
            beat = message.heartbeat
            if session.heartbeat(beat.agent_id, beat.load, beat.status) and self._holds(stream):
                self._registrar.changed(session.agent_id, session.key, session.status)
        else:
            session.counters.stray += 1

    async def _welcome(self, stream: Stream, hello: AgentHello, request_id: str, shown: str) -> None:
        try:
            why = await self._admitted(stream, hello, shown)
        except NotNow as later:
            self.refused += 1
            stream.end(str(later), blame=False, code=grpc.StatusCode.UNAVAILABLE)
            return
        if why is not None:
            self.refused += 1
            stream.end(why, blame=False, last=why)
            return
        ack = ServerAck(accepted=True, message="welcome", assigned_node_id=self.node)
        stream.send(ControlPlaneToAgent(request_id=request_id, ack=ack))
        stream.session.opened()
        stream.ready.set()

    async def _admitted(self, stream: Stream, hello: AgentHello, shown: str) -> str | None:
        """None once every worker can find the agent, or why it may not connect. Raises `NotNow`."""
        session = stream.session
        why = session.hello(hello.agent_id, hello.heartbeat_interval_ms, time.monotonic())
        if why is not None:
            return why
        arrival = Arrival(
            session.key, hello.agent_id, hello.agent_name, tuple(hello.capabilities), dict(hello.metadata), shown
        )
        why = self._registrar.admit(arrival)
        if why is None:
            self._replace(stream)
            why = await self._registrar.arrived(arrival)
            session.heard(time.monotonic())  # this worker took too long
        return why

    def _replace(self, stream: Stream) -> None:
        """The newest connection of an agent holds; an older one is closed with that reason."""
        agent_id = stream.session.agent_id
        older = self._streams.pop(agent_id, None)
        self._streams[agent_id] = stream
        if older is not None:
            log.info("an agent connected again; its older connection is replaced", agent_id=agent_id)
            why = "a newer connection of this agent has taken its place"
            older.end(why, blame=False, last=why)

    def _holds(self, stream: Stream) -> bool:
        return self._streams.get(stream.session.agent_id) is stream

    def _leave(self, stream: Stream) -> None:
        stream.end("it hung up", blame=True)
        self._all.discard(stream)
        for name in COUNTED:
            self._past[name] += getattr(stream.session.counters, name)
        if self._holds(stream):
            del self._streams[stream.session.agent_id]
            self._registrar.left(stream.session.agent_id, stream.session.key, stream.why)
