"""THE table of topics, in the order data flows. Topic creation, the codec's types, the contracts and the reference are
made from it.

A name here is short (`tasks`); on the broker it has the prefix (`parallax.tasks`), and dead letters the prefix `dlq.`
before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.messages import (
    AgentCalibration,
    AgentRegistration,
    AgentStanding,
    Aggregate,
    Anomaly,
    ConfidenceDataPoint,
    Control,
    Event,
    HomeState,
    Message,
    Plan,
    PlanMemory,
    PlanResult,
    Result,
    Schedule,
    ScheduleMemory,
    Task,
)

DEFAULT_PREFIX = "parallax."
DEFAULT_PARTITIONS = 8
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
LARGE_RECORD_BYTES = 10 * 1024 * 1024
"""The broker accepts records up to this size. The pipeline's own limit is a setting: a larger task is answered, not
refused by the broker.
"""
DEAD_LETTER_RETENTION_MS = 7 * DAY_MS
DEAD_LETTER_BYTES = LARGE_RECORD_BYTES + 64 * 1024
"""The largest accepted record, and room for the headers of its dead letter."""


SMALL_SEGMENTS = (("segment.bytes", str(16 * 1024 * 1024)), ("segment.ms", str(HOUR_MS)))
"""For topics that are read whole: the newest segment is never compacted, so overwritten records must get into older
ones soon.
"""


class Party(StrEnum):
    """Who writes or reads a topic; the value is the word for documents. `access.py` knows which roles a party stands for."""

    USERS = "users"
    DISPATCH = "dispatch"
    PLANS = "plan coordinator"
    SCHEDULES = "schedules"
    STATS = "stats"
    REGISTRY = "registry"
    EVERY_WORKER = "every worker"
    LIVE_PAGE = "live page"
    EVERY_ROLE = "all"


@dataclass(frozen=True, slots=True)
class Topic:
    """One row: the message on the topic, its key and retention, and its writers and readers."""

    name: str
    key: str
    message: type[Message]
    written_by: tuple[Party, ...]
    read_by: tuple[Party, ...]
    cleanup: str = "delete"
    retention_ms: int = 7 * DAY_MS
    partitions: int | None = None
    """None: as many as `tasks` has."""
    dead_letters: bool = False
    max_message_bytes: int | None = None
    extra_config: tuple[tuple[str, str], ...] = ()

    @property
    def users_write(self) -> bool:
        """Whether users write it: an input of the pipeline."""
        return Party.USERS in self.written_by

    @property
    def users_read(self) -> bool:
        """Whether users read it: an output of the pipeline."""
        return Party.USERS in self.read_by

    @property
    def ce_type(self) -> str:
        """The CloudEvents type of records here, from the message's name."""
        noun = "".join(f"_{c.lower()}" if c.isupper() else c for c in self.message.__name__).lstrip("_")
        return f"io.parallax.{noun}.v1"

    def config(self) -> dict[str, str]:
        """The topic's settings on the broker."""
        config = {"cleanup.policy": self.cleanup}
        if "delete" in self.cleanup:
            config["retention.ms"] = str(self.retention_ms)
        if self.max_message_bytes is not None:
            config["max.message.bytes"] = str(self.max_message_bytes)
        return config | dict(self.extra_config)


TOPICS: tuple[Topic, ...] = (
    Topic(
        "tasks",
        "agent id when known (any key works)",
        Task,
        (Party.USERS, Party.PLANS, Party.SCHEDULES),
        (Party.DISPATCH,),
        dead_letters=True,
        max_message_bytes=LARGE_RECORD_BYTES,
    ),
    Topic(
        "plans",
        "plan id",
        Plan,
        (Party.USERS, Party.DISPATCH),
        (Party.PLANS,),
        dead_letters=True,
        max_message_bytes=LARGE_RECORD_BYTES,
    ),
    Topic(
        "controls",
        "task or plan id",
        Control,
        (Party.USERS, Party.PLANS),
        (Party.EVERY_WORKER,),
        retention_ms=HOUR_MS,
        dead_letters=True,
        # A request applies to tasks from before it, which must not depend on the clock of the user who wrote it.
        extra_config=(("message.timestamp.type", "LogAppendTime"),),
    ),
    Topic(
        "agents",
        "agent id",
        AgentRegistration,
        (Party.USERS, Party.REGISTRY, Party.EVERY_WORKER),
        (Party.EVERY_WORKER,),
        "compact",
        partitions=1,
        dead_letters=True,
        extra_config=SMALL_SEGMENTS,
    ),
    Topic(
        "standings",
        "agent id",
        AgentStanding,
        (Party.DISPATCH,),
        (Party.EVERY_WORKER,),
        "compact",
        partitions=1,
        extra_config=SMALL_SEGMENTS,
    ),
    Topic(
        "dispatch",
        "agent id",
        Task,
        (Party.DISPATCH, Party.SCHEDULES),
        (Party.DISPATCH,),
        dead_letters=True,
        max_message_bytes=LARGE_RECORD_BYTES,
    ),
    Topic(
        "parked",
        "agent id",
        Task,
        (Party.DISPATCH,),
        (Party.DISPATCH,),
        dead_letters=True,
        max_message_bytes=LARGE_RECORD_BYTES,
    ),
    Topic(
        "schedules",
        "schedule id",
        Schedule,
        (Party.USERS, Party.SCHEDULES),
        (Party.SCHEDULES,),
        "compact",
        dead_letters=True,
        # A schedule begins at the time of its record, which must not be that of a user's clock.
        extra_config=(*SMALL_SEGMENTS, ("message.timestamp.type", "LogAppendTime")),
    ),
    Topic(
        "scheduled",
        "record and task id",
        Task,
        (Party.DISPATCH, Party.SCHEDULES),
        (Party.SCHEDULES,),
        "compact",
        dead_letters=True,
        max_message_bytes=LARGE_RECORD_BYTES,
        # Each task leaves a tombstone, which no reader needs longer than one reading takes.
        extra_config=(*SMALL_SEGMENTS, ("delete.retention.ms", str(10 * MINUTE_MS))),
    ),
    Topic(
        "schedule-state",
        "app and kind, or schedule id",
        ScheduleMemory,
        (Party.SCHEDULES,),
        (Party.SCHEDULES,),
        "compact",
        extra_config=(
            *SMALL_SEGMENTS,
            ("delete.retention.ms", str(10 * MINUTE_MS)),
            ("message.timestamp.type", "LogAppendTime"),
        ),
    ),
    Topic(
        "state",
        "app, kind and slot or agent id",
        HomeState,
        (Party.DISPATCH,),
        (Party.DISPATCH,),
        "compact",
        # Brokers stamp the records, so that workers can compare their clocks with theirs.
        extra_config=(*SMALL_SEGMENTS, ("message.timestamp.type", "LogAppendTime")),
    ),
    Topic(
        "results",
        "plan id if the task has one, else task id",
        Result,
        (Party.DISPATCH, Party.PLANS),
        (Party.USERS, Party.PLANS),
    ),
    Topic("plan-results", "plan id", PlanResult, (Party.PLANS,), (Party.USERS,), max_message_bytes=LARGE_RECORD_BYTES),
    Topic(
        "plan-state",
        "app and plan id, or slot",
        PlanMemory,
        (Party.PLANS,),
        (Party.PLANS,),
        "compact",
        max_message_bytes=LARGE_RECORD_BYTES + 1024 * 1024,
        # Each plan leaves tombstones, which no reader needs longer than one reading takes.
        extra_config=(
            *SMALL_SEGMENTS,
            ("delete.retention.ms", str(10 * MINUTE_MS)),
            ("message.timestamp.type", "LogAppendTime"),
        ),
    ),
    Topic(
        "data-points",
        "agent id",
        ConfidenceDataPoint,
        (Party.DISPATCH, Party.PLANS, Party.USERS),
        (Party.STATS,),
        dead_letters=True,
    ),
    Topic(
        "aggregates",
        "agent id",
        Aggregate,
        (Party.STATS,),
        (Party.USERS,),
        "compact,delete",
        retention_ms=31 * DAY_MS,
        # The key is the agent, not the window: compaction before retention would forget all but an agent's newest window.
        extra_config=(("min.compaction.lag.ms", str(31 * DAY_MS)),),
    ),
    Topic(
        "calibrations",
        "agent id",
        AgentCalibration,
        (Party.STATS,),
        (Party.EVERY_WORKER,),
        "compact",
        partitions=1,
        extra_config=SMALL_SEGMENTS,
    ),
    Topic("anomalies", "agent id", Anomaly, (Party.STATS,), (Party.USERS,), retention_ms=30 * DAY_MS),
    Topic(
        "events",
        "task, plan or agent id",
        Event,
        (Party.EVERY_ROLE,),
        (Party.USERS, Party.LIVE_PAGE),
        retention_ms=DAY_MS,
    ),
)

BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
INTAKE = ("parked", "dispatch", "tasks")
"""The three inputs of dispatch: equal partition counts, assigned together. What waited longest is served first."""
PLAN_INTAKE = ("plans", "results")
"""The two inputs of the plan coordinator: a plan and the results of its steps are in the partition of the plan's id."""
SCHEDULE_INTAKE = ("scheduled", "schedules")
"""The inputs of the role `schedules`: tasks whose time has not come, and schedules."""
ALIGNED = (*INTAKE, "state", *PLAN_INTAKE, "plan-state", *SCHEDULE_INTAKE, "schedule-state")
"""Topics that must have equal partition counts: partition n of each has the same owner."""


def full_name(name: str, prefix: str = DEFAULT_PREFIX) -> str:
    """The name on the broker.

    >>> full_name("tasks"), full_name("dlq.tasks", "acme.")
    ('parallax.tasks', 'dlq.acme.tasks')
    """
    if name.startswith("dlq."):
        return f"dlq.{prefix}{name.removeprefix('dlq.')}"
    return f"{prefix}{name}"


def event_ce_type(event_type: str) -> str:
    """The CloudEvents type of a record on `events`, which is finer than the topic's own.

    >>> event_ce_type("task:cache-hit")
    'io.parallax.task.cache_hit.v1'
    """
    return f"io.parallax.{event_type.replace(':', '.').replace('-', '_')}.v1"


def dead_letter_config() -> dict[str, str]:
    """The settings of a dead-letter topic on the broker."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(DEAD_LETTER_RETENTION_MS),
        "max.message.bytes": str(DEAD_LETTER_BYTES),
    }


def dead_letter_topics() -> tuple[str, ...]:
    """Short names of all dead-letter topics."""
    return tuple(f"dlq.{topic.name}" for topic in TOPICS if topic.dead_letters)
