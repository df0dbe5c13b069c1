"""Writes registrations to the topic `agents`, and waits until the brokers have them.

In: a registration, or an agent to be forgotten. Out: a record, acknowledged, and known to this worker's own table.
"""

from __future__ import annotations

import asyncio

from aiokafka.errors import KafkaError

from schemas.messages import AgentRegistration
from schemas.topics import full_name
from streams.agent_table import AgentTable
from streams.event_sink import EventSink
from streams.parts import Parts

WRITE_TIMEOUT_S = 10.0


class NotWritten(Exception):
    """The brokers did not take it; nothing is known to have changed."""


class RegistrationWriter:
    """One worker's hand on the topic."""

    def __init__(self, sink: EventSink, table: AgentTable, parts: Parts) -> None:
        self._sink = sink
        self._table = table
        self._parts = parts
        self._topic = full_name("agents", parts.settings.topic_prefix)

    async def write(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """Register, or unregister with None. Raises `NotWritten`."""
        output = self._parts.recorder.registration(agent_id, agent, self._parts.wall_ms())
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._sink.producer.send_and_wait(
                    self._topic, output.value, key=output.key, headers=output.headers
                )
        except (KafkaError, TimeoutError) as error:
            raise NotWritten(f"the registration could not be written: {error!r}") from error
        await self._table.catch_up()
