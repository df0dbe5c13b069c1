"""Calls to agents of protocol `gateway`: through their stream on this worker, or through the worker that holds it.

The agent may be connected to worker B while its partition, and so its tasks, belong to worker A. A sends the call to B over
gRPC; what comes back is judged here, on A, and only A's transaction writes the result: the hop is a transport and no more, so
exactly-once does not depend on it. Kafka was the other way; it would add two commits to each call and could not cut one off.

A finds B in the agent's own record on the topic `agents` (`metadata.gateway`: address, node, key). While no worker holds
the stream a call waits for the agent's next record, for `patience_s` at most: an agent that dials in elsewhere is called
there at once. A worker that is gone fails the calls under way as `connection`, to be tried again, and without blame for the
agent.

  agent not connected for patience_s          connection    counts         worker or way to it gone     connection    does not
  agent hung up, or was lost, during a call   connection    once a hang-up too many requests open        rate_limited  does not
  no answer in time: the agent gets a cancel  timeout       counts         what the agent answered       rules/answers.py
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from agents_io.errors import (
    BadResponse,
    CallTimeout,
    ConnectionFailed,
    Expired,
    RateLimited,
    ServerError,
    Unsupported,
)
from agents_io.grpc.rules.payload import fill_request
from agents_io.protocols.gateway.relay import RelayClient, Route
from agents_io.protocols.gateway.rules.answers import error_of, read_result
from agents_io.protocols.gateway.service import Gateway
from agents_io.protocols.gateway.stream import NotHere, StreamLost, TooMany
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration
from schemas.pb.gateway_pb2 import AgentToControlPlane, TaskRequest

PATIENCE_S = 10.0
DEAD_FOR_S = 1.0
"""How long a failed route is not tried again; a new record of the agent is a new route."""
MAX_DEAD = 10_000
MAX_REQUEST_BYTES = 4 * 1024 * 1024 - 64 * 1024
"""The default limit of gRPC's clients: a larger message would end the stream, with every call on it."""
KEY_NAME = "idempotencyKey"
"""The member of the TaskRequest's context that carries the idempotency key; `traceparent` is beside it."""


class HopLost(ConnectionFailed):
    """The worker that held the agent's stream is gone, or released it. Not the agent's fault."""

    counts_against_agent = False


class Routes:
    """Where each agent is connected, by its record on the topic `agents`, and the calls that wait for a new record."""

    def __init__(self, lookup: Callable[[str], AgentRegistration | None]) -> None:
        self._lookup = lookup
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._dead: OrderedDict[Route, float] = OrderedDict()

    def of(self, agent_id: str) -> Route | None:
        """The route to try now, or None."""
        agent = self._lookup(agent_id)
        route = None if agent is None else route_of(agent)
        if route is None or self._dead.get(route, 0.0) > time.monotonic():
            return None
        return route

    def dead(self, route: Route) -> None:
        """The route led to no agent: do not try it again."""
        self._dead.pop(route, None)
        self._dead[route] = time.monotonic() + DEAD_FOR_S
        if len(self._dead) > MAX_DEAD:
            self._dead.popitem(last=False)

    def changed(self, agent_id: str) -> None:
        """The agent's record has changed."""
        for waiter in self._waiters.get(agent_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def waiter(self, agent_id: str) -> asyncio.Future[None]:
        """A future that is done at the next change. Give it back to `forget`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(agent_id, set()).add(future)
        return future

    def forget(self, agent_id: str, waiter: asyncio.Future[None]) -> None:
        """Its caller waits no longer."""
        waiters = self._waiters[agent_id]
        waiters.discard(waiter)
        if not waiters:
            del self._waiters[agent_id]


def route_of(agent: AgentRegistration) -> Route | None:
    """Where the agent is connected, by its record; None if it is away, or the record names no usable address."""
    found = (agent.metadata or {}).get("gateway")
    if not isinstance(found, dict) or found.get("status") == "away":
        return None
    parts = [found.get(name) for name in ("address", "node", "key")]
    address, node, key = (part if isinstance(part, str) else "" for part in parts)
    return Route(address, node, key) if address and node and key else None


class GatewayTransport:
    """Calls agents of protocol `gateway`; one for all of a worker's agents."""

    def __init__(
        self,
        gateway: Gateway,
        relay: RelayClient,
        routes: Routes,
        *,
        patience_s: float = PATIENCE_S,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._gateway = gateway
        self._relay = relay
        self._routes = routes
        self._patience_s = patience_s
        self._max_answer_bytes = max_answer_bytes

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`; cancelling it sends the agent a CancelTask."""
        if not call.timeout_s > 0:
            raise Expired("no time is left for a call")
        request = _request(call)
        if (size := request.ByteSize()) > MAX_REQUEST_BYTES:
            raise Unsupported(
                f"payload: takes {size} bytes on this agent's wire, more than the {MAX_REQUEST_BYTES} it accepts"
            )
        try:
            message = await self._reach(agent.id, request, call.timeout_s)
        except TimeoutError:
            raise CallTimeout(f"no answer within {call.timeout_s:.3g} s") from None
        except TooMany:
            raise RateLimited(f"agent {agent.id!r} has reached its limit of open requests") from None
        except StreamLost as lost:
            kind = ConnectionFailed if lost.blame else HopLost
            raise kind(f"the agent's stream ended during the call: {lost.why}") from None
        return self._judge(message, call.attempt)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """The agent is connected to a worker and accepts tasks. Raises `AgentError`."""
        local = self._gateway.presence(agent.id)
        status = None if local is None else local.status
        route = self._routes.of(agent.id)
        if local is None and route is not None and route.node != self._gateway.node:
            status = (await self._relay.presence(route, agent.id, timeout_s) or {}).get("status")
        if status is None:
            raise ConnectionFailed("the agent is not connected")
        if status == "draining":
            raise ServerError("the agent is draining: it takes no more tasks")

    async def close(self) -> None:
        """Release every channel to other workers. The streams are the gateway's."""
        await self._relay.close()

    async def _reach(self, agent_id: str, request: TaskRequest, timeout_s: float) -> AgentToControlPlane:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        patient_until = min(deadline, clock() + self._patience_s)
        while True:
            waiter = self._routes.waiter(agent_id)  # before the check: no change can be missed
            try:
                try:
                    return await self._once(agent_id, request, deadline - clock())
                except NotHere:
                    left_s = patient_until - clock()
                if left_s <= 0:
                    raise ConnectionFailed(f"agent {agent_id!r} is not connected")
                await asyncio.wait((waiter,), timeout=min(left_s, DEAD_FOR_S))
            finally:
                self._routes.forget(agent_id, waiter)

    async def _once(self, agent_id: str, request: TaskRequest, left_s: float) -> AgentToControlPlane:
        if self._gateway.key_of(agent_id) is not None:
            return await self._gateway.ask(agent_id, request, left_s)
        route = self._routes.of(agent_id)
        if route is None or route.node == self._gateway.node:
            raise NotHere
        try:
            return await self._relay.ask(route, agent_id, request, left_s)
        except (NotHere, StreamLost):
            self._routes.dead(route)
            raise

    def _judge(self, message: AgentToControlPlane, attempt: int) -> Answer:
        kind = message.WhichOneof("payload")
        if kind == "task_error":
            raise error_of(message.task_error.error_code, message.task_error.error_message, attempt)
        if kind != "task_result":
            raise BadResponse("the answer is neither a result nor an error")
        result = message.task_result
        return read_result(
            result.value_json, result.confidence, result.reasoning, dict(result.metadata), self._max_answer_bytes
        )


def _request(call: Call) -> TaskRequest:
    request = TaskRequest()
    fill_request(request, call)
    for name, value in call.headers:
        request.context[name] = value
    request.context[KEY_NAME] = call.idempotency_key
    return request
