"""A transport under test: a scripted agent, how it is registered, and the transport that reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from agents_io.transport import Answer, Call, Transport
from schemas.messages import AgentRegistration

CALL = Call("t1", "t1", b"{}", 10.0)


@dataclass
class TransportRig:
    """`template`: the call that is made, unless a test says otherwise."""

    fake: Any
    agent: AgentRegistration
    transport: Transport
    template: Call = CALL

    async def call(
        self, key: str | None = None, *, body: bytes | None = None, timeout_s: float | None = None, **changes: Any
    ) -> Answer:
        """One call. `key`: task id and idempotency key; `changes`: fields of the registration, for this call alone."""
        given = {"task_id": key, "idempotency_key": key, "body": body, "timeout_s": timeout_s}
        call = replace(self.template, **{name: value for name, value in given.items() if value is not None})
        # The same object as long as nothing changes: a transport takes another one for a new registration.
        agent = self.agent.model_copy(update=changes) if changes else self.agent
        return await self.transport.call(agent, call)


@asynccontextmanager
async def running(
    fake: Any, transport: Transport, template: Call = CALL, **registration: Any
) -> AsyncIterator[TransportRig]:
    """The fake is served and the transport closed at the end. `registration`: fields beside id and endpoint."""
    async with fake:
        try:
            yield TransportRig(
                fake, AgentRegistration(id="a", endpoint=fake.endpoint, **registration), transport, template
            )
        finally:
            await transport.close()
