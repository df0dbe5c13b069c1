"""Can a registration work at all? Checked where it is made, so that it does not fail at the first task.

In: a registration. Out: nothing, or `Unsupported` that names the field and the reason. It makes no call and reads no secret.
"""

from __future__ import annotations

from typing import Any

from agents_io.errors import Unsupported
from agents_io.grpc.endpoint import endpoint_of
from agents_io.http.peer import web_url
from agents_io.rules.answer import reading_of
from agents_io.rules.metadata_keys import misfit
from agents_io.rules.wire.a2a_card import binding_of, version_of
from agents_io.rules.wire.chat_config import chat_config
from agents_io.rules.wire.kafka_words import topic_of
from agents_io.rules.wire.mcp import ToolCall
from agents_io.tls import tls_of
from schemas.messages import AgentRegistration

OVER_HTTP = ("http", "a2a", "openai", "mcp")


def check_registration(agent: AgentRegistration) -> None:
    """Raises `Unsupported`.

    >>> check_registration(AgentRegistration(id="m", endpoint="openai://h/v1"))
    Traceback (most recent call last):
    agents_io.errors.Unsupported: metadata.model: an agent of protocol openai needs the name of its model
    """
    protocol = agent.transport
    if (reason := misfit(protocol, agent.metadata)) is not None:
        raise Unsupported(reason)
    if protocol in OVER_HTTP:
        web_url(agent)
    elif protocol == "grpc":
        endpoint_of(agent.endpoint)
    elif protocol == "kafka":
        topic_of(agent.endpoint)
    _check_confidence(agent)
    if protocol != "gateway":
        reading_of(agent.metadata, agent.confidence)
        tls_of(agent.metadata)
    if protocol == "a2a":
        version_of(agent.metadata or {})
        binding_of(agent.metadata or {})
    elif protocol == "mcp":
        ToolCall(agent.metadata)
    elif protocol == "openai":
        chat_config(agent.metadata)


def _check_confidence(agent: AgentRegistration) -> None:
    source = "stated" if agent.confidence is None else agent.confidence.source
    if source == "logprobs" and agent.transport != "openai":
        raise Unsupported(f"confidence.from: logprobs needs protocol openai, not {agent.transport}")
    if source in ("path", "constant") and agent.transport in ("grpc", "gateway"):
        raise Unsupported(f"confidence.from: an agent of protocol {agent.transport} states its confidence")
    if source == "judge" and agent.confidence is not None and agent.confidence.agent == agent.id:
        raise Unsupported(
            "confidence.agent: an agent cannot be its own judge; register it a second time under another id"
        )
    if source == "agreement" and agent.transport == "openai":
        _check_samples_differ(agent.metadata or {})


def _check_samples_differ(metadata: dict[str, Any]) -> None:
    """A model that always gives the same answer agrees with itself."""
    if "seed" in metadata:
        raise Unsupported("metadata.seed: makes all samples of an agreement the same; leave it out")
    if metadata.get("temperature") == 0:
        raise Unsupported("metadata.temperature: 0 makes all samples of an agreement the same; choose one above 0")
