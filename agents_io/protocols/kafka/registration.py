"""Metadata keys of a registration with protocol `kafka`. Pure."""

from __future__ import annotations

from agents_io.protocols.kafka.rules.headers import topic_of
from agents_io.rules.registrable import JSON_ANSWERS, Key, Registrable
from schemas.messages import AgentRegistration

CANCEL_RECORDS = Key(
    "cancelRecords", "flag", "write a record with the header `cancel` for a cancelled request", "false"
)


def _check(agent: AgentRegistration) -> None:
    topic_of(agent.endpoint)


KAFKA = Registrable((*JSON_ANSWERS, CANCEL_RECORDS), _check)
