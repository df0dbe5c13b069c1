"""What all workers of a simulated world share, and what the oracles read of them afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streams.settings import Settings
from tests.simulation.agents import SimAgent
from tests.simulation.broker import Broker
from tests.simulation.durability import Durability
from tests.simulation.network import Network
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.node import Node


@dataclass(slots=True)
class Surroundings:
    """What all nodes of a world share."""

    world: World
    network: Network
    broker: Broker
    settings: Settings
    """Those of the workers that start from now on."""
    agents: dict[str, SimAgent]
    repeats_in_place: bool = False
    """Whether transactional requests whose answer is not known are repeated in the same epoch, as aiokafka does by itself."""
    restart: Callable[[str | None], object] = lambda instance: None
    """Starts a worker of that static name."""
    nodes: dict[str, Node] = field(default_factory=dict)
    durability: dict[str, Durability] = field(
        default_factory=lambda: {role: Durability() for role in ("dispatch", "plans", "schedules")}
    )
    schedules: bool = False
    """Whether the workers have the role `schedules`."""
    buried: list[Node] = field(default_factory=list)
    """Dead nodes, kept: what the garbage collector would run of them belongs to nobody."""
    strays: list[tuple[float, str, str, str]] = field(default_factory=list)
    """Calls by a node while another owned the agent's partition: when, node, agent, owner."""
    forbidden: list[tuple[float, str, str, str]] = field(default_factory=list)
    """Calls that the settings of the worker do not permit: when, node, agent, what was called."""
    pauses: list[tuple[float, str, str, float]] = field(default_factory=list)
    """Pauses an agent asked for, as the worker heard of them: when, node, agent, seconds."""
    opened: list[tuple[float, str, str]] = field(default_factory=list)
    """Circuits that opened: when, node, agent."""
    served: set[str] = field(default_factory=set)
    """Tasks that were answered without a call of their own, committed or not."""
