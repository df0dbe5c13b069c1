"""How a worker calls agents: transports, the guarded call, and its pure rules (queue, breaker, limiter, retry).

Users import two decorators from here, both loaded on first use: `agent` makes a function an agent, `function` makes one
that tasks may name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents_io.protocols.functions import current_call, function
    from agents_io.serving import AgentFunction, Answer, Declined, agent, from_agreement, from_logprobs, from_proba

__all__ = [
    "AgentFunction",
    "Answer",
    "Declined",
    "agent",
    "current_call",
    "from_agreement",
    "from_logprobs",
    "from_proba",
    "function",
]

if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'agents_io' has no attribute {name!r}")
        from agents_io import serving
        from agents_io.protocols import functions

        return getattr(functions if name in ("current_call", "function") else serving, name)
