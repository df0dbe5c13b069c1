"""Metadata keys of a registration with protocol `a2a`. Pure."""

from __future__ import annotations

from agents_io.protocols.a2a.rules.card import binding_of, version_of
from agents_io.rules.registrable import JSON_ANSWERS, Key, Registrable
from schemas.messages import AgentRegistration

KEYS = (
    Key(
        "a2aVersion",
        "version",
        "`1.0` or `0.3`; the endpoint is the URL of the interface itself, no card is read",
        "the card's",
    ),
    Key(
        "a2aBinding",
        "text",
        "`JSONRPC` or `HTTP+JSON`: the interface of the card, or, with `a2aVersion`, of the endpoint",
        "the card's first; `JSONRPC` with `a2aVersion`",
    ),
    Key("blocking", "flag", "wait in the first request instead of asking again", "false"),
    Key("textOnly", "flag", "send text alone, no data parts", "the card's input modes"),
    Key("tenant", "text", "the tenant of each request", "the card's"),
    Key("stream", "flag", "take the answer from `message/stream`", "false; true where an agent offers nothing else"),
)


def _check(agent: AgentRegistration) -> None:
    version_of(agent.metadata or {})
    binding_of(agent.metadata or {})


A2A = Registrable((*JSON_ANSWERS, *KEYS), _check, over_http=True)
