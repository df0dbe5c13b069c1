"""Assembles a worker's gateway: agents dial in here, are found on the topic `agents`, and are called at whichever
worker holds them.

In: settings, the table of agents, the shared producer, which partitions are here. Out: handlers for the worker's gRPC
server and a transport for protocol `gateway`. Only the order of starting and stopping is decided here.

    server bound -> start(address) -> agents arrive ... engine drained -> stop(): streams closed, records written -> server ends
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from agents_io.grpc.services import service_handler
from agents_io.protocols.gateway.relay import RelayClient, RelayService
from agents_io.protocols.gateway.rules.session import SessionConfig
from agents_io.protocols.gateway.service import Gateway
from agents_io.protocols.gateway.transport import GatewayTransport, Routes
from agents_io.secret_refs import secret_of
from schemas.access import role_group
from schemas.messages import EventType
from schemas.pb import gateway_pb2
from streams.agents.registration_writer import RegistrationWriter
from streams.agents.table import AgentTable
from streams.agents.transports import secret_policy
from streams.engine.event_sink import EventSink
from streams.gateway.metrics import GatewayMetrics
from streams.gateway.registry import GatewayRegistry
from streams.gateway.sweeper import GatewaySweeper
from streams.grpc_tls import towards_workers
from streams.rules.addresses import advertised
from streams.rules.records import Recorder
from streams.settings import Settings


class GatewayService:
    """`here`: whether an agent's owner partition is this worker's."""

    def __init__(
        self,
        *,
        settings: Settings,
        agents: AgentTable,
        sink: EventSink,
        writer: RegistrationWriter,
        here: Callable[[str], bool],
        metrics: CollectorRegistry,
    ) -> None:
        given = settings.gateway
        self.node = secrets.token_hex(8)
        self._advertise = settings.grpc_advertise
        self._drain_s = settings.dispatch.drain_timeout / 1000
        self._sink = sink
        self._recorder = Recorder(
            app_id=settings.app_id,
            processor="gateway",
            prefix=settings.topic_prefix,
            group=role_group(settings.app_id, "dispatch", settings.topic_prefix),
        )
        grace_s = given.grace / 1000
        allowed = secret_policy(settings)
        self.registry = GatewayRegistry(
            node=self.node, lookup=agents.get, write=writer.put, tell=self._tell, grace_s=grace_s, secrets=allowed
        )
        self.gateway = Gateway(
            self.node,
            self.registry,
            config=SessionConfig(missed=given.missed_heartbeats, max_outstanding=given.max_outstanding),
            max_sessions=given.max_agents,
            token=secret_of(given.agent_token, "gateway.agent_token"),
        )
        self.registry.drop = self.gateway.drop
        metrics.register(GatewayMetrics(self.gateway))
        relay_token = secret_of(given.relay_token, "gateway.relay_token")
        relay = RelayClient(relay_token, tls=towards_workers(settings.grpc_tls), name=settings.grpc_tls.worker_name)
        self._relay_service = RelayService(self.gateway, relay_token)
        routes = Routes(agents.get)
        self.transport = GatewayTransport(
            self.gateway,
            relay,
            routes,
            patience_s=given.reconnect_wait / 1000,
            max_answer_bytes=settings.dispatch.max_answer_bytes,
        )

        def mine(agent_id: str) -> bool:
            return not self.registry.holds(agent_id) and here(agent_id)

        self._sweeper = GatewaySweeper(agents=agents.all, mine=mine, relay=relay, write=writer.put, grace_s=grace_s)
        self._tasks: list[asyncio.Task[None]] = []
        agents.on_change(self.registry.on_record)
        agents.on_change(lambda agent_id, agent, record: routes.changed(agent_id))

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The handlers for the worker's gRPC server."""
        connect = service_handler(gateway_pb2, "AgentGateway", {"Connect": self.gateway.connect})
        return connect, self._relay_service.handler()

    def start(self, bound: str) -> None:
        """The server listens at `bound`, host:port; before that, agents are refused and retry."""
        self.registry.address = advertised(self._advertise, bound, socket.gethostname())
        self._tasks = [
            asyncio.create_task(self.registry.run(), name="gateway-registry"),
            asyncio.create_task(self._sweeper.run(), name="gateway-sweeper"),
        ]

    async def stop(self) -> None:
        """Let calls of other workers end, within `dispatch.drain_timeout`; close every stream; write the records for
        other workers.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.gateway.close(self._drain_s)
        await self.registry.flush()

    def _tell(self, kind: EventType, agent_id: str, data: dict[str, Any]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._sink.emit(self._recorder.event(kind, agent_id, {"agentId": agent_id} | data, now_ms, tail=f"/{now_ms}"))
