"""Writes registrations to the topic `agents` and waits for the acknowledgement. The only way a worker writes there.

In: a registration, or an agent to be removed. Out: an acknowledged record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiokafka.errors import KafkaError

from schemas.messages import AgentRegistration
from schemas.topics import full_name
from streams.agents.table import AgentTable
from streams.engine.event_sink import EventSink
from streams.rules.agents.gateway_claim import OWN_HEADER, Position
from streams.rules.records import Recorder

WRITE_TIMEOUT_S = 8.0
"""Existing agents wait ten seconds for the acknowledgement."""
AT_ONCE = 500


class NotWritten(Exception):
    """The brokers did not accept the record; it is unknown whether anything changed."""


class RegistrationWriter:
    """The writer of one worker."""

    def __init__(
        self, *, sink: EventSink, table: AgentTable, recorder: Recorder, prefix: str, wall_ms: Callable[[], int]
    ) -> None:
        self._sink = sink
        self._table = table
        self._recorder = recorder
        self._wall_ms = wall_ms
        self._topic = full_name("agents", prefix)

    async def put(self, agent_id: str, agent: AgentRegistration | None, mark: str = "") -> Position:
        """Register, or unregister with None. `mark`: the gateway's, see `rules/agents/gateway_claim.py`. Raises `NotWritten`."""
        output = self._recorder.registration(agent_id, agent, self._wall_ms())
        headers = [*output.headers, (OWN_HEADER, mark.encode())] if mark else output.headers
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                written = await self._sink.producer.send_and_wait(
                    self._topic, output.value, key=output.key, headers=headers
                )
        except (KafkaError, TimeoutError) as error:
            raise NotWritten(f"the registration could not be written: {error!r}") from error
        return Position(written.partition, written.offset)

    async def write(self, agent_id: str, agent: AgentRegistration | None) -> None:
        """As `put`, and wait until this worker's own table has it. Raises `NotWritten`."""
        await self.put(agent_id, agent)
        await self._table.catch_up()

    async def write_all(self, work: Iterable[tuple[str, AgentRegistration | None]]) -> None:
        """Write many. Raises `NotWritten` if some were not written; others may have been."""
        waiting = list(work)
        for first in range(0, len(waiting), AT_ONCE):
            await asyncio.gather(*(self.put(*one) for one in waiting[first : first + AT_ONCE]))
        await self._table.catch_up()
