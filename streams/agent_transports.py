"""The transports of agents that are reached over HTTP in other words than ours, by protocol.

In: settings. Out: what the worker and `parallax agents probe` add to their `Transports`. Nothing connects before its first call.
"""

from __future__ import annotations

from agents_io.a2a_transport import A2aTransport
from agents_io.mcp_transport import McpTransport
from agents_io.openai_transport import OpenAiTransport
from agents_io.transport import Transport
from streams.settings import Settings


def over_http(settings: Settings) -> dict[str, Transport]:
    """`openai`, `a2a` and `mcp`, each with a pool of its own."""
    connections, cap = settings.dispatch.max_in_flight, settings.dispatch.max_answer_bytes
    return {
        "openai": OpenAiTransport(max_connections=connections, max_answer_bytes=cap),
        "a2a": A2aTransport(max_connections=connections, max_answer_bytes=cap),
        "mcp": McpTransport(max_connections=connections, max_answer_bytes=cap),
    }
