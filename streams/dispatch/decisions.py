"""The router's decisions about a task, which the processor carries out."""

from __future__ import annotations

from dataclasses import dataclass

from agents_io.errors import AgentError
from schemas.messages import AgentRegistration
from streams.rules.plans.templates import Template


@dataclass(frozen=True, slots=True)
class CallAgent:
    """Call this agent: its partition is this one, and the task's id is claimed for it."""

    agent: AgentRegistration


@dataclass(frozen=True, slots=True)
class Forward:
    """Write the task to another partition, that of `key`. `agent_id`: the agent, if one is chosen."""

    partition: int
    key: str
    agent_id: str | None


@dataclass(frozen=True, slots=True)
class WaitForTime:
    """Write the task to the topic `scheduled`, from which it returns at its time. `not_before_ms`: epoch ms."""

    partition: int
    not_before_ms: int


@dataclass(frozen=True, slots=True)
class WaitForAgent:
    """Keep the task until an agent can take it."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Read the topic of agents to its end, then route again: the agent may have been registered a moment ago."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Hand the task to the plan coordinator: it names a local template. `refused`: why the template will not run."""

    template: Template
    refused: AgentError | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """End the task with this error."""

    error: AgentError


@dataclass(frozen=True, slots=True)
class Duplicate:
    """End the record: another one with the same id answers the task."""


Decision = CallAgent | Forward | WaitForTime | WaitForAgent | LookUp | RunPlan | Fail | Duplicate
