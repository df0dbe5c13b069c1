"""The configuration of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.engine.aligned import AlignedAssignor
from streams.settings import Settings

Belongs = Callable[[bytes, bytes, int, int], bool]
"""Whether a row of the state topic (key, value) belongs to a partition number, of so many."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The configuration of an engine. Times in seconds; `options`: aiokafka's connection arguments."""

    options: dict[str, Any]
    prefix: str
    group: str
    sources: Sequence[str]
    instance_id: str | None
    session_timeout_s: float
    drain_timeout_s: float
    """How long calls under way may take to finish when partitions move."""
    stop_timeout_s: float
    """How long calls under way may take to finish when this worker stops."""
    state: str | None
    """Short name of the compacted topic with the state that moves with each partition; None: there is none."""
    exact_ends: bool
    """Whether the broker reports true end offsets (the embedded one may report too low ones)."""
    from_end: Callable[[Sequence[bytes]], Sequence[str]] | None = None
    """From the state: the sources that may begin at their ends if the group never committed, and whose records are not
    missed when they expire; None: no source.
    """
    assignor: AlignedAssignor = field(default_factory=AlignedAssignor)
    """This member's assignor, by which the group assigns its partitions."""
    belongs: Belongs | None = None
    """What an added partition takes over; None: nothing."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        options: dict[str, Any],
        *,
        group: str,
        sources: Sequence[str],
        state: str,
        exact_ends: bool,
        from_end: Callable[[Sequence[bytes]], Sequence[str]] | None = None,
        assignor: AlignedAssignor | None = None,
        belongs: Belongs | None = None,
    ) -> EngineConfig:
        """The configuration of a role, from the settings."""
        return cls(
            options=options,
            prefix=settings.topic_prefix,
            group=group,
            sources=sources,
            instance_id=settings.instance_id,
            session_timeout_s=settings.session_timeout / 1000,
            drain_timeout_s=settings.dispatch.drain_timeout / 1000,
            stop_timeout_s=settings.dispatch.stop_timeout / 1000,
            state=state,
            exact_ends=exact_ends,
            from_end=from_end,
            assignor=assignor or AlignedAssignor(),
            belongs=belongs,
        )
