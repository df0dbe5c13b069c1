"""Makes the transport of each protocol whose agents are called at an address.

In: what a worker gives its transports. Out: a transport by protocol. Nothing connects before its first call. Agents of
protocol `gateway` dial in: their transport comes from the gateway they dialled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.protocols.http.transport import HttpTransport
from agents_io.protocols.kafka.broker import Broker
from agents_io.protocols.kafka.transport import KafkaTransport
from agents_io.protocols.mcp.transport import McpTransport
from agents_io.protocols.openai.transport import OpenAiTransport
from agents_io.rules.targets import AgentWall
from agents_io.tls import TlsFiles
from agents_io.transport import Transport
from schemas.messages import Protocol


@dataclass(frozen=True, slots=True)
class TransportParts:
    """What a worker gives its transports.

    `pool`: makes a pool of connections; `wall`: where endpoints may lead, None: anywhere.
    """

    pool: Callable[[], PooledTransport]
    max_answer_bytes: int
    tls: TlsFiles
    wall: AgentWall | None
    broker: Broker


MAKERS: dict[Protocol, Callable[[TransportParts], Transport]] = {
    "http": lambda parts: HttpTransport(parts.pool(), max_answer_bytes=parts.max_answer_bytes),
    "grpc": lambda parts: GrpcTransport(max_answer_bytes=parts.max_answer_bytes, tls=parts.tls, wall=parts.wall),
    "openai": lambda parts: OpenAiTransport(parts.pool(), max_answer_bytes=parts.max_answer_bytes),
    "a2a": lambda parts: A2aTransport(parts.pool(), max_answer_bytes=parts.max_answer_bytes),
    "mcp": lambda parts: McpTransport(parts.pool(), max_answer_bytes=parts.max_answer_bytes),
    "kafka": lambda parts: KafkaTransport(parts.broker, max_answer_bytes=parts.max_answer_bytes),
}
