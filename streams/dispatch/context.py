"""What the processors of a worker's partitions share. No code: the role fills it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents_io.calling.caller import Caller
from schemas.messages import AgentRegistration, Task
from streams.agents.table import AgentTable
from streams.dispatch.balancer import Balancer
from streams.dispatch.callers import CallerFactory
from streams.dispatch.held_memory import HeldMemory
from streams.dispatch.task_run import TaskRun
from streams.engine.record_reader import ReadAgain
from streams.metrics import DispatchMetrics
from streams.rules.dispatch.records import DispatchRecorder
from streams.rules.plans.templates import Templates
from streams.rules.records import Output
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.tracing.spans import Tracing


@dataclass(slots=True, frozen=True)
class DispatchContext:
    """Shared by the processors of all partitions of this worker."""

    settings: Settings
    agents: AgentTable
    callers: CallerFactory
    memory: HeldMemory
    recorder: DispatchRecorder
    emit: Callable[[Output], None]
    metrics: DispatchMetrics
    wall_ms: Callable[[], int]
    cancelled: Callable[[str, int], str | None]
    """Why a task id submitted then (epoch ms) is cancelled, or None."""
    partition_count: Callable[[], int]
    builtin: Callable[[Task], AgentRegistration]
    """The built-in agent of a task of another type than `agent`. Raises `AgentError`."""
    cleared: Callable[[str], int]
    """When an agent's cached answers were last cleared, epoch ms."""
    balancer: Balancer
    circuit_changed: Callable[[str, Caller[TaskRun]], None]
    read_again: ReadAgain
    templates: Templates = field(default_factory=dict)
    """Local patterns, whose tasks the plan coordinator runs."""
    calibrated: Callable[[str, float], float | None] = lambda _agent, _confidence: None
    """The calibrated value of an agent's stated confidence; None: unknown."""
    withdraw: Callable[[bytes], list[Output]] = lambda _key: []
    """Takes back records given to `emit` under this key and not sent yet: the caller writes them."""
    tracing: Tracing | None = None
    """Makes spans, if tracing is on."""
