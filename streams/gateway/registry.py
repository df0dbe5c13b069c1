"""Dialled-in agents on the topic `agents`: which agent is connected where, visible to every worker.

In: arrivals, statuses and losses from this worker's gateway; every record of the topic. Out: registrations, tombstones,
and events about the agent's own status (healthy, degraded, draining). That it came or left is published once, where its
partition is (`agents/agent_status_publisher.py`). An arrival is acknowledged only once the brokers have its record. A
lost agent is `away` during its grace period, so one that returns loses nothing; then it is unregistered. Heartbeats are
not written; a changed status is, at most four times a second. It calls no agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any

import structlog
from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from agents_io.errors import AgentError
from agents_io.protocols.gateway.rules.session import Status
from agents_io.protocols.gateway.service import Arrival, NotNow
from agents_io.rules.secret_policy import SecretPolicy
from agents_io.secret_refs import Secret
from schemas.codec import header
from schemas.messages import AgentRegistration, EventType, explain
from streams.agents.registration_writer import NotWritten
from streams.rules.agents.gateway_claim import OWN_HEADER, Position, Where, compose, judge, where_of

log = structlog.get_logger(__name__)

TICK_S = 0.25
BATCH = 100
"""Records written at once."""

Write = Callable[[str, AgentRegistration | None, str], Awaitable[Position]]
"""Agent id, registration (None: a tombstone), mark -> position of the acknowledged record. Raises `NotWritten`."""
Tell = Callable[[EventType, str, dict[str, Any]], None]


@dataclass(slots=True)
class _Claim:
    """One connection of an agent to this worker, and the grace period after it."""

    arrival: Arrival
    base: AgentRegistration | None
    status: str = "healthy"
    why: str = ""
    place: Position | None = None
    away_at: float | None = None
    dirty: bool = False
    later: list[tuple[AgentRegistration | None, Position, str]] = field(default_factory=list)
    """Records seen before the position of our own was known."""


class GatewayRegistry:
    """The gateway's `Registrar`. `address`: this worker's, for the others; set before agents can come."""

    def __init__(
        self,
        *,
        node: str,
        lookup: Callable[[str], AgentRegistration | None],
        write: Write,
        tell: Tell,
        grace_s: float,
        secrets: SecretPolicy | None = None,
    ) -> None:
        """`secrets`: which secrets a registration may reference as the token its agent must show."""
        self.node = node
        self.address = ""
        self.drop: Callable[[str, str, str], None] = lambda agent_id, key, why: None
        """The gateway's: end a connection and say why."""
        self._lookup = lookup
        self._write = write
        self._tell = tell
        self._grace_s = grace_s
        self._secrets = secrets or SecretPolicy()
        self._claims: dict[str, _Claim] = {}

    def holds(self, agent_id: str) -> bool:
        """Whether the agent is connected here, or was until a moment ago."""
        return agent_id in self._claims

    # Called by the gateway

    def admit(self, arrival: Arrival) -> str | None:
        """Why an agent is refused: its id belongs to an agent of another protocol, or it lacks the token of its
        registration's `auth`. Raises `NotNow`.
        """
        known = self._lookup(arrival.agent_id)
        if known is None:
            return None
        if known.transport != "gateway":
            return f"agent_id: {arrival.agent_id!r} is registered with protocol {known.transport}"
        if known.auth is None:
            return None
        try:
            self._secrets.check(known)
            wanted = Secret(known.auth).token()
        except AgentError as error:
            log.error("an agent cannot dial in", agent_id=arrival.agent_id, reason=error.message)
            raise NotNow("its token cannot be checked now") from None
        same = compare_digest(arrival.token.encode(), wanted.encode())
        return None if same else "authorization: the token is missing or wrong"

    async def arrived(self, arrival: Arrival) -> str | None:
        """Write the agent's record; None once the brokers have it. Raises `NotNow`."""
        if not self.address:
            raise NotNow("this worker is starting; try again")
        known = self._lookup(arrival.agent_id)
        claim = _Claim(arrival, known)
        try:
            value = self._value(claim)
        except ValueError as error:
            return str(error)
        self._claims[arrival.agent_id] = claim
        try:
            claim.place = await self._write(arrival.agent_id, value, "status" if known is not None else "")
        except NotWritten as error:
            log.warning("an agent that dialled in was not registered", agent_id=arrival.agent_id, error=repr(error))
            if self._claims.get(arrival.agent_id) is claim:
                del self._claims[arrival.agent_id]
            raise NotNow("it could not be registered now; try again") from None
        log.info("an agent dialled in", agent_id=arrival.agent_id)
        for seen in claim.later:
            self._weigh(arrival.agent_id, claim, *seen)
        claim.later.clear()
        return None

    def changed(self, agent_id: str, key: str, status: Status) -> None:
        """The agent reported a new status."""
        claim = self._claims.get(agent_id)
        if claim is None or claim.arrival.key != key:
            return
        claim.status, claim.dirty = status, True
        kind: dict[str, EventType] = {"healthy": "agent:healthy", "draining": "agent:draining"}
        self._tell(kind.get(status, "agent:unhealthy"), agent_id, {"reason": status, "node": self.node})

    def left(self, agent_id: str, key: str, why: str) -> None:
        """The agent's stream is over; its grace period begins."""
        claim = self._claims.get(agent_id)
        if claim is None or claim.arrival.key != key:
            return
        claim.status, claim.why, claim.dirty, claim.away_at = "away", why, True, asyncio.get_running_loop().time()
        log.info("an agent that dialled in has disconnected", agent_id=agent_id, reason=why)

    # Called for records of the topic

    def on_record(self, agent_id: str, agent: AgentRegistration | None, record: ConsumerRecord) -> None:
        """Every record of the topic, in order."""
        claim = self._claims.get(agent_id)
        if claim is None:
            return
        seen = agent, Position(record.partition, record.offset), header(record.headers, OWN_HEADER) or ""
        if claim.place is None:
            claim.later = [*claim.later[-9:], seen]
        else:
            self._weigh(agent_id, claim, *seen)

    def _weigh(self, agent_id: str, claim: _Claim, agent: AgentRegistration | None, at: Position, mark: str) -> None:
        if self._claims.get(agent_id) is not claim:
            return
        verdict = judge(claim.arrival.key, claim.place, agent, at, mark)
        if verdict in ("ours", "older"):
            return
        if claim.away_at is not None:
            if verdict != "again" or where_of(agent) is None:
                del self._claims[agent_id]  # it is at another worker now, or unregistered
            return
        if verdict == "again":
            claim.base, claim.dirty = agent or claim.base, True
            return
        del self._claims[agent_id]
        why = "another worker has a newer connection of this agent" if verdict == "taken" else "it was unregistered"
        self.drop(agent_id, claim.arrival.key, why)

    # Called by time

    async def run(self) -> None:
        """Write changes and unregister agents that did not return; runs until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.flush()

    async def flush(self) -> None:
        """Write all changes that are due, once."""
        now = asyncio.get_running_loop().time()
        due = [(agent_id, claim) for agent_id, claim in self._claims.items() if claim.dirty or self._over(claim, now)]
        for start in range(0, len(due), BATCH):
            await asyncio.gather(*(self._settle(*pair, now) for pair in due[start : start + BATCH]))

    def _over(self, claim: _Claim, now: float) -> bool:
        return claim.away_at is not None and now - claim.away_at >= self._grace_s

    async def _settle(self, agent_id: str, claim: _Claim, now: float) -> None:
        if self._claims.get(agent_id) is not claim or claim.place is None:
            return  # of another connection, or its own record is still being written
        try:
            if self._over(claim, now):
                await self._write(agent_id, None, "gone")
                if self._claims.get(agent_id) is claim:
                    del self._claims[agent_id]
            else:
                claim.dirty = False
                claim.place = await self._write(agent_id, self._value(claim), "status")
        except NotWritten as error:
            claim.dirty = True
            log.warning("the state of a dialled-in agent was not written", agent_id=agent_id, error=repr(error))

    def _value(self, claim: _Claim) -> AgentRegistration:
        arrival = claim.arrival
        where = Where(self.address, self.node, arrival.key, claim.status, claim.why)
        data = compose(arrival.agent_id, arrival.name, arrival.capabilities, arrival.metadata, where, claim.base)
        try:
            return AgentRegistration.model_validate(data)
        except ValidationError as error:
            raise ValueError(explain(error, quote=True)) from None
