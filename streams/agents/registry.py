"""The gRPC service `parallax.registry.Registry`: agents register themselves here, at any worker.

In: requests. Out: records on the topic `agents`, where every worker sees them. Nothing is kept here: a lease outlives
the worker that granted it and can be renewed at any other. Missing or invalid fields are INVALID_ARGUMENT, an unknown
agent or lease NOT_FOUND, unreachable brokers UNAVAILABLE, a missing or wrong token UNAUTHENTICATED. It never calls an
agent; `lease_expirer.py` ends the leases.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from secrets import token_hex
from typing import Any, NoReturn

import grpc
import grpc.aio
from aiokafka.structs import ConsumerRecord

from agents_io.grpc.bearer import MOST_WRONG, objection
from agents_io.grpc.services import service_handler
from agents_io.rules.wrong_tokens import WrongTokens
from agents_io.secret_refs import Secret
from schemas.codec import Rejected
from schemas.messages import AgentRegistration
from schemas.pb import registry_pb2 as pb
from streams.agents.registration_writer import NotWritten, RegistrationWriter
from streams.agents.table import AgentTable
from streams.rules.agents.leases import agent_of, grant, lease_of, renewed, with_lease, worth_writing
from streams.rules.agents.registrations import (
    Page,
    change,
    duration_ms,
    from_wire,
    has_all,
    timestamp,
    to_wire,
)

MAX_WATCHERS = 256
MAX_WAITING = 10_000
"""Events one watcher may lag behind before its stream is ended and it must watch again."""

Context = grpc.aio.ServicerContext[Any, Any]
_Event = tuple[AgentRegistration | None, AgentRegistration | None]


class Registry:
    """The service of one worker."""

    def __init__(
        self, *, table: AgentTable, writer: RegistrationWriter, wall_ms: Callable[[], int], token: Secret | None = None
    ) -> None:
        """`token`: required of every caller as `authorization: Bearer`; None: every caller is served."""
        self._table = table
        self._writer = writer
        self._wall_ms = wall_ms
        self._token = token
        self._wrong = WrongTokens(MOST_WRONG)
        self._watchers: set[asyncio.Queue[_Event | None]] = set()
        self._known = {agent.id: agent for agent in table.all()}
        table.on_change(self._changed)

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler for the gRPC server."""
        methods: dict[str, Callable[..., Any]] = {
            "Register": self.register,
            "Unregister": self.unregister,
            "Renew": self.renew,
            "ListAgents": self.list_agents,
            "GetAgent": self.get_agent,
        }
        guarded = {name: self._guarded(function) for name, function in methods.items()}
        return service_handler(pb, "Registry", guarded | {"Watch": self.watch})

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> Any:
            await self._admit(context)
            return await function(request, context)

        return answer

    async def _admit(self, context: Context) -> None:
        refused = objection(context, self._token, self._wrong)
        if refused is not None:
            await _refuse(context, *refused)

    async def register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Register an agent with a lease. A second registration of an id replaces the first and ends its lease."""
        old = self._table.get(request.agent.id) or self._table.ended(request.agent.id)
        now_ms = self._wall_ms()
        try:
            agent = from_wire(request.agent, old, context.peer(), now_ms)
        except Rejected as error:
            return await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, error.reason)
        lease = grant(agent.id, token_hex(8), duration_ms(request.agent.ttl), request.auto_renew, now_ms)
        await self._write(agent.id, with_lease(agent, lease), context)
        return pb.RegisterResponse(
            success=True, message=f"registered; the lease lasts {lease.ttl_ms / 1000:g} s", lease_id=lease.id
        )

    async def unregister(self, request: pb.AgentRegistration, context: Context) -> pb.RegisterResponse:
        """Give the agent no further tasks; it finishes those it has. Only the id matters."""
        if not request.id:
            return await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "id: is missing")
        if not await self._found(request.id):
            return pb.RegisterResponse(success=True, message="was not registered")
        await self._write(request.id, None, context)
        return pb.RegisterResponse(success=True, message="unregistered")

    async def renew(self, request: pb.RenewRequest, context: Context) -> pb.RegisterResponse:
        """Renew the lease from now on; this brings back an agent whose lease had ended."""
        agent_id = agent_of(request.lease_id)
        agent = await self._found(agent_id) if agent_id else None
        lease = None if agent is None else lease_of(agent)
        if agent is None or lease is None or lease.id != request.lease_id:
            return await _refuse(context, grpc.StatusCode.NOT_FOUND, "no such lease; register again")
        after = renewed(lease, duration_ms(request.ttl), self._wall_ms())
        if worth_writing(lease, after):
            await self._write(agent_id, with_lease(agent, after), context)
        return pb.RegisterResponse(
            success=True, message=f"renewed for {after.ttl_ms / 1000:g} s", lease_id=request.lease_id
        )

    async def list_agents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """Agents with all of the capabilities and labels, by id, one page at a time."""
        try:
            page = Page.of(request)
        except Rejected as error:
            return await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, error.reason)
        found, token, total = page.cut(self._table.all())
        return pb.ListAgentsResponse(
            agents=[to_wire(agent) for agent in found], next_continuation_token=token, total_count=total
        )

    async def get_agent(self, request: pb.GetAgentRequest, context: Context) -> pb.AgentRegistration:
        agent = self._table.get(request.agent_id)
        if agent is None:
            await self._table.catch_up()
            agent = self._table.get(request.agent_id)
        if agent is None:
            return await _refuse(
                context, grpc.StatusCode.NOT_FOUND, f"agent {request.agent_id[:80]!r} is not registered"
            )
        return to_wire(agent)

    async def watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchEvent]:
        """Changes from now on, of agents with all of the capabilities; first, if asked for, the existing ones."""
        await self._admit(context)
        if len(self._watchers) >= MAX_WATCHERS:
            await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {MAX_WATCHERS} watchers already")
        wanted = list(request.capabilities)
        queue: asyncio.Queue[_Event | None] = asyncio.Queue(MAX_WAITING)
        there = [agent for agent in self._known.values() if has_all(agent, wanted)] if request.include_initial else []
        self._watchers.add(queue)
        try:
            for agent in there:
                yield self._event(pb.WatchEvent.ADDED, agent)
            while (event := await queue.get()) is not None:
                kind, changed = change(*event, wanted)
                if changed is not None:
                    yield self._event(kind, changed)
        finally:
            self._watchers.discard(queue)
        await _refuse(
            context, grpc.StatusCode.RESOURCE_EXHAUSTED, "the watcher is too slow; watch again from the start"
        )

    def _event(self, kind: pb.WatchEvent.Type, agent: AgentRegistration) -> pb.WatchEvent:
        return pb.WatchEvent(type=kind, agent=to_wire(agent), timestamp=timestamp(self._wall_ms()))

    def _changed(self, agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        before = self._known.pop(agent_id, None)
        if agent is not None:
            self._known[agent_id] = agent
        for queue in list(self._watchers):
            try:
                queue.put_nowait((before, agent))
            except asyncio.QueueFull:
                # Its unread events are useless now: it must start again.
                self._watchers.discard(queue)
                with contextlib.suppress(asyncio.QueueEmpty):
                    while True:
                        queue.get_nowait()
                queue.put_nowait(None)

    async def _found(self, agent_id: str) -> AgentRegistration | None:
        """The agent, also one that registered at another worker a moment ago, or whose lease ended."""
        for _ in range(2):
            agent = self._table.get(agent_id) or self._table.ended(agent_id)
            if agent is not None:
                return agent
            await self._table.catch_up()
        return None

    async def _write(self, agent_id: str, agent: AgentRegistration | None, context: Context) -> None:
        try:
            await self._writer.write(agent_id, agent)
        except NotWritten as error:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE, str(error))


async def _refuse(context: Context, code: grpc.StatusCode, why: str) -> NoReturn:
    await context.abort(code, why)
    raise AssertionError("abort raises")
