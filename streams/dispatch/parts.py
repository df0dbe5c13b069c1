"""What all home partitions of a worker share. No code: the worker fills it in, handlers use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents_io.caller import Caller
from schemas.messages import AgentRegistration, Task
from streams.agents.table import AgentTable
from streams.dispatch.balancer import Balancer
from streams.dispatch.callers import CallerFactory
from streams.metrics import DispatchMetrics
from streams.rules.plans.templates import Templates
from streams.rules.records import Output, Recorder
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.tracing.spans import Tracing


@dataclass(slots=True, frozen=True)
class Parts:
    """What every home's handler shares on this worker."""

    settings: Settings
    agents: AgentTable
    callers: CallerFactory
    recorder: Recorder
    emit: Callable[[Output], None]
    metrics: DispatchMetrics
    wall_ms: Callable[[], int]
    cancelled: Callable[[str], str | None]
    """Why a task id is to be cancelled, or None."""
    partition_count: Callable[[], int]
    builtin: Callable[[Task], AgentRegistration]
    """The built-in agent of a task that is for none of the registered. Raises `AgentError`."""
    cleared: Callable[[str], int]
    """When an agent's cached answers were last asked to be forgotten, epoch ms."""
    balancer: Balancer
    turned: Callable[[str, Caller], None]
    """Told of an agent whose circuit changed."""
    templates: Templates = field(default_factory=dict)
    """Local patterns, whose tasks the plan coordinator runs."""
    calibrated: Callable[[str, float], float | None] = lambda _agent, _confidence: None
    """What an agent's stated confidence is worth; None: not known."""
    tracing: Tracing | None = None
    """Makes spans, if anybody wants them."""
