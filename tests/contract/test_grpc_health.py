"""Health and capabilities of agents over gRPC: by their own check, by the standard service, or not known."""

from __future__ import annotations

import pytest

from agents_io.errors import Unsupported
from agents_io.protocols.grpc.transport import GrpcTransport
from schemas.pb.confidence_pb2 import Health
from tests.support.grpc_rig import rig_of
from tests.support.health import is_well


@pytest.mark.parametrize(
    ("said", "well"),
    [(Health.HEALTHY, True), (Health.DEGRADED, True), (Health.UNHEALTHY, False), (Health.UNKNOWN, False)],
)
async def test_health_by_the_agents_own_check(said: Health.Status, well: bool) -> None:
    """What it says of itself."""
    async with rig_of() as rig:
        rig.fake.status = said
        assert await is_well(rig.transport, rig.agent, 5.0) is well


async def test_health_by_the_standard_service() -> None:
    """Where the agent has no check of its own."""
    async with rig_of(health_by="standard") as rig:
        assert await is_well(rig.transport, rig.agent, 5.0)
        rig.fake.healthy = False
        assert not await is_well(rig.transport, rig.agent, 5.0)


async def test_health_of_an_agent_that_has_no_check_is_not_known() -> None:
    """That is no illness."""
    async with rig_of(health_by="none") as rig:
        with pytest.raises(Unsupported, match="no health check"):
            await rig.transport.check_health(rig.agent, 5.0)


async def test_nobody_there_is_not_healthy() -> None:
    """And it does not raise."""
    async with rig_of() as rig:
        pass
    transport = GrpcTransport()
    assert not await is_well(transport, rig.agent, 2.0)
    await transport.close()
