"""What an engine is told when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.engine.aligned import AlignedAssignor


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine needs to know. Times in seconds; `options`: aiokafka's connection arguments."""

    options: dict[str, Any]
    prefix: str
    group: str
    sources: Sequence[str]
    instance_id: str | None
    session_timeout_s: float
    max_in_flight: int
    drain_timeout_s: float
    """How long calls under way may take to finish when partitions move."""
    stop_timeout_s: float
    """The same when this worker stops."""
    state: str | None
    """Short name of the compacted topic that moves with each partition; None: nothing does."""
    exact_ends: bool
    """Whether the broker tells true end offsets (the embedded one may tell too little)."""
    from_end: Callable[[Sequence[bytes]], Sequence[str]] | None = None
    """Of what is remembered: the sources that may begin at their ends where the group never committed, and whose records are not
    missed when they expire; None: none may."""
    assignor: Any = AlignedAssignor
    """How the group deals out its partitions, as aiokafka takes it."""
