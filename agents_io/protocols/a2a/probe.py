"""Recognises an A2A agent by its card."""

from __future__ import annotations

from agents_io.http.peer import Peer
from agents_io.protocols.a2a.transport import A2aTransport
from agents_io.protocols.probing import MAX_BYTES, Found, asked_agent, listed, printable
from schemas.messages import SecretRef


async def probe(endpoint: str, auth: SecretRef | None) -> Found:
    """The agent whose card lies at the URL. Raises `AgentError`."""
    transport = A2aTransport(max_answer_bytes=MAX_BYTES)
    try:
        card = await transport.card(Peer(asked_agent(endpoint, "a2a", auth)))
    finally:
        await transport.close()
    skills = f", skills {listed(card.skills)}" if card.skills else ""
    named = f" {printable(card.name)!r}" if card.name else ""
    first = card.interfaces[0]
    over = "" if first.binding == "JSONRPC" else f" over {first.binding}"
    return Found("a2a", f"an A2A {first.version} agent{over}{named}{skills}", card.name, card.skills)
