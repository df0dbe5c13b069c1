"""The pipeline: rules that decide, an engine that commits, roles that process topics, and the worker that runs them.

Users import `Client` and the names beside it from here; they are loaded on first use. `streams.sync` blocks instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.client import *

__all__ = [
    "AgentRefused",
    "AgentRejected",
    "AgentServerError",
    "AgentTimeout",
    "AgentUnreachable",
    "BadResponse",
    "CircuitOpen",
    "Client",
    "ClientClosed",
    "ClientError",
    "ExecutionFailed",
    "ForbiddenTarget",
    "Handle",
    "InternalError",
    "InvalidPlan",
    "InvalidTask",
    "InvalidValue",
    "KafkaUnreachable",
    "NoAgent",
    "NoWorker",
    "NotFound",
    "PlanResult",
    "RateLimited",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskResult",
    "TooLarge",
    "TopicsMissing",
    "UnknownFunction",
    "Unsupported",
    "WaitTimeout",
    "dag",
    "parallel",
    "sequence",
    "step",
]


if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'streams' has no attribute {name!r}")
        from streams import client

        return getattr(client, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
