"""Gateways on servers of their own, agents that dial in to them, and a registrar that writes to no topic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from agents_io.grpc.services import service_handler
from agents_io.protocols.gateway.relay import MAX_MESSAGE_BYTES, RelayClient, RelayService
from agents_io.protocols.gateway.rules.session import SessionConfig, Status
from agents_io.protocols.gateway.service import Arrival, Gateway, NotNow
from agents_io.protocols.gateway.transport import GatewayTransport, Routes
from agents_io.secret_refs import Secret
from schemas.messages import AgentRegistration
from schemas.pb import gateway_pb2
from streams.grpc_tls import server_credentials, towards_workers
from streams.settings_parts import GrpcTlsSettings


@dataclass
class Book:
    """The records of all agents, as the topic would hold them; shared by every node of a test."""

    records: dict[str, AgentRegistration] = field(default_factory=dict)
    routes: list[Routes] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)

    def write(self, agent_id: str, record: AgentRegistration | None) -> None:
        """A record, seen by all at once."""
        if record is None:
            self.records.pop(agent_id, None)
        else:
            self.records[agent_id] = record
        for routes in self.routes:
            routes.changed(agent_id)


class BookRegistrar:
    """Writes where an agent is connected into the book."""

    def __init__(self, book: Book, node: str) -> None:
        self.book = book
        self.node = node
        self.address = ""
        self.refuse: str | None = None
        self.not_now = 0
        """How many arrivals find the brokers away."""

    def admit(self, arrival: Arrival) -> str | None:
        """As told."""
        return self.refuse

    async def arrived(self, arrival: Arrival) -> str | None:
        """Its record names this node."""
        if self.not_now:
            self.not_now -= 1
            raise NotNow("it could not be registered now; try again")
        self._write(arrival.agent_id, arrival.key, "healthy")
        return None

    def changed(self, agent_id: str, key: str, status: Status) -> None:
        """Its record says so."""
        self._write(agent_id, key, status)

    def left(self, agent_id: str, key: str, why: str) -> None:
        """Away, unless it came back elsewhere."""
        self.book.log.append((agent_id, why))
        record = self.book.records.get(agent_id)
        if record is not None and (record.metadata or {})["gateway"]["key"] == key:
            self._write(agent_id, key, "away")

    def _write(self, agent_id: str, key: str, status: str) -> None:
        where = {"address": self.address, "node": self.node, "key": key, "status": status}
        self.book.log.append((agent_id, status))
        self.book.write(
            agent_id,
            AgentRegistration(id=agent_id, endpoint=f"gateway://{agent_id}", metadata={"gateway": where}),
        )


@dataclass
class Node:
    """One worker's worth of gateway."""

    gateway: Gateway
    registrar: BookRegistrar
    relay: RelayClient
    transport: GatewayTransport
    server: grpc.aio.Server
    address: str
    routes: Routes


@asynccontextmanager
async def node(
    book: Book,
    name: str = "n1",
    *,
    config: SessionConfig | None = None,
    token: Secret | None = None,
    relay_token: Secret | None = None,
    max_sessions: int = 100,
    max_calls: int = 1000,
    patience_s: float = 5.0,
    max_answer_bytes: int = 200_000,
    tls: GrpcTlsSettings | None = None,
) -> AsyncIterator[Node]:
    """A gateway with its relay on a free port of loopback."""
    registrar = BookRegistrar(book, name)
    gateway = Gateway(name, registrar, config=config, token=token, max_sessions=max_sessions)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    server.add_generic_rpc_handlers(
        (
            service_handler(gateway_pb2, "AgentGateway", {"Connect": gateway.connect}),
            RelayService(gateway, relay_token, max_calls=max_calls).handler(),
        )
    )
    tls = tls or GrpcTlsSettings()
    credentials, anywhere = server_credentials(tls), "127.0.0.1:0"
    bound = server.add_insecure_port(anywhere) if credentials is None else server.add_secure_port(anywhere, credentials)
    address = registrar.address = f"127.0.0.1:{bound}"
    await server.start()
    routes = Routes(book.records.get)
    book.routes.append(routes)
    relay = RelayClient(relay_token, tls=towards_workers(tls), name=tls.worker_name)
    transport = GatewayTransport(gateway, relay, routes, patience_s=patience_s, max_answer_bytes=max_answer_bytes)
    try:
        yield Node(gateway, registrar, relay, transport, server, address, routes)
    finally:
        await gateway.close()
        await server.stop(0.2)
        await transport.close()
        book.routes.remove(routes)
