"""Metadata keys of a registration with protocol `grpc`. Pure."""

from __future__ import annotations

from agents_io.protocols.grpc.endpoint import endpoint_of
from agents_io.rules.registrable import TLS, VALUE_PATH, Key, Registrable
from schemas.messages import AgentRegistration

STREAM = Key("stream", "flag", "call `StreamAnalyze` and take the last result", "false")


def _check(agent: AgentRegistration) -> None:
    endpoint_of(agent.endpoint)


GRPC = Registrable((VALUE_PATH, TLS, STREAM), _check, states_confidence=True)
