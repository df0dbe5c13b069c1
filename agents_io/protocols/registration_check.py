"""Checks whether a registration can work, where it is made, before the first task fails.

In: a registration. Out: None, or `Unsupported` that names the field and the reason. It makes no call and reads no
secret.
"""

from __future__ import annotations

from typing import cast

from agents_io.errors import Unsupported
from agents_io.http.peer import web_url
from agents_io.protocols.metadata_keys import misfit
from agents_io.protocols.registrations import REGISTRABLE
from agents_io.rules.answer import reading_of
from agents_io.rules.registrable import VALUE_PATH, Registrable
from agents_io.tls import tls_of
from schemas.messages import AgentRegistration, Protocol


def check_registration(agent: AgentRegistration) -> None:
    """Raises `Unsupported`.

    >>> check_registration(AgentRegistration(id="m", endpoint="openai://h/v1"))
    Traceback (most recent call last):
    agents_io.errors.Unsupported: metadata.model: an agent of protocol openai needs the name of its model
    """
    protocol = cast("Protocol", agent.transport)
    takes = REGISTRABLE[protocol]
    if (reason := misfit(protocol, agent.metadata)) is not None:
        raise Unsupported(reason)
    if takes.over_http:
        web_url(agent)
    _check_confidence(agent, takes)
    if VALUE_PATH in takes.keys:
        reading_of(agent.metadata, agent.confidence)
        tls_of(agent.metadata)
    takes.check(agent)


def _check_confidence(agent: AgentRegistration, takes: Registrable) -> None:
    source = "stated" if agent.confidence is None else agent.confidence.source
    if source == "logprobs" and not takes.has_logprobs:
        able = ", ".join(protocol for protocol, other in REGISTRABLE.items() if other.has_logprobs)
        raise Unsupported(f"confidence.from: logprobs needs protocol {able}, not {agent.transport}")
    if source in ("path", "constant") and takes.states_confidence:
        raise Unsupported(f"confidence.from: an agent of protocol {agent.transport} states its confidence")
    if source == "judge" and agent.confidence is not None and agent.confidence.agent == agent.id:
        raise Unsupported(
            "confidence.agent: an agent cannot be its own judge; register it a second time under another id"
        )
