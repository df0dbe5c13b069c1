"""Whether an agent says that it is well, for tests that want yes or no."""

from __future__ import annotations

from agents_io.errors import AgentError, Unsupported
from agents_io.transport import Transport
from schemas.messages import AgentRegistration


async def is_well(transport: Transport, agent: AgentRegistration, timeout_s: float = 5.0) -> bool:
    """What `check_health` says; it must give a reason. Raises `Unsupported`."""
    reason = None
    try:
        await transport.check_health(agent, timeout_s)
    except Unsupported:
        raise
    except AgentError as error:
        reason = error.message
    assert reason != ""
    return reason is None
