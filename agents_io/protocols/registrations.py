"""What each protocol accepts in a registration, by protocol. Pure."""

from __future__ import annotations

from agents_io.protocols.a2a.registration import A2A
from agents_io.protocols.grpc.registration import GRPC
from agents_io.protocols.kafka.registration import KAFKA
from agents_io.protocols.mcp.registration import MCP
from agents_io.protocols.openai.registration import OPENAI
from agents_io.rules.registrable import JSON_ANSWERS, Registrable
from schemas.messages import Protocol

REGISTRABLE: dict[Protocol, Registrable] = {
    "http": Registrable(JSON_ANSWERS, over_http=True),
    "a2a": A2A,
    "openai": OPENAI,
    "mcp": MCP,
    "kafka": KAFKA,
    "grpc": GRPC,
    "gateway": Registrable(states_confidence=True),
}
