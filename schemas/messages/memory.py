"""The state of a partition that moves with it. Internal: no user reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.messages.base import Count, Id, Message, Ratio, Timestamp


class SeenTasks(Message):
    """Digests of task ids that were answered, base64; `sequence` orders the chunks. `slot`: the last part of its key.
    `since`: when the first id was added.
    """

    sequence: Count
    digests: Annotated[str, Field(max_length=1_000_000)]
    slot: Count | None = None
    since: Timestamp | None = None


class BreakerState(Message):
    """A circuit breaker. Times are ages in ms."""

    state: Literal["closed", "open", "half_open"]
    failures: list[Count] = []
    open_for: Count = 0
    successes: Count = 0
    rates: list[Annotated[list[Count], Field(min_length=4, max_length=4)]] = []
    """Calls within the window as `[age in ms, calls, failures, slow calls]`, if the circuit uses shares."""


class LimiterState(Message):
    """A rate limit: `[age in ms, calls]` of those within the window, oldest first."""

    log: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] = []
    paused_for: Count = 0


class HealthState(Message):
    """How an agent's recent calls ended: failures and ejections in a row, and how long it stays ejected; ms."""

    failed: Count = 0
    ejections: Count = 0
    ejected_for: Count = 0


class AgentGuard(Message):
    """The state of an agent's circuit breaker, rate limit and health."""

    agent_id: Id
    breaker: BreakerState
    limiter: LimiterState
    concurrency: Annotated[float, Field(ge=1)] | None = None
    """The adaptive limit found so far."""
    health: HealthState | None = None


class KeptAnswer(Message):
    """A cached answer in its slot of the cache."""

    slot: Count
    key: str
    agent_id: Id
    confidence: Ratio
    value: Any
    metadata: dict[str, Any] = {}
    """The other members of the agent's answer."""
    expires: Timestamp
    source: str = ""
    """Of the registration by which it was answered, see `answer_source`; empty for agents without one."""


class KeptHead(Message):
    """The progress of a consumer group in one topic partition: the commit offset, and the map of records finished
    beyond it.

    `topicId`: identifies the topic among those of one name; `epoch`: its leader epoch when the log was last known to
    hold everything below `checked`. Empty and -1: unknown.
    """

    offset: Count
    map: str = ""
    topic_id: str = ""
    epoch: int = -1
    checked: Count = 0


class KeptHeads(Message):
    """The progress of the consumer group `group`, by the short names of its topics.

    `partitions`: the partition counts under which this partition was open, the newest last; empty if an older version
    wrote it.
    """

    group: str
    topics: dict[str, KeptHead]
    partitions: list[Count] = []


class HomeState(Message):
    """One piece of an owner partition's state; exactly one of the four is set."""

    app: str
    at: Timestamp
    seen: SeenTasks | None = None
    guard: AgentGuard | None = None
    answer: KeptAnswer | None = None
    heads: KeptHeads | None = None


class ScheduleFired(Message):
    """The newest time of a schedule that made a task or was skipped."""

    schedule_id: Id
    time: Timestamp


class ScheduleMemory(Message):
    """One piece of state of the role `schedules`; exactly one of the two is set."""

    app: str
    at: Timestamp
    fired: ScheduleFired | None = None
    heads: KeptHeads | None = None


class PlanBegun(Message):
    """A plan under way: the plan as it was sent, with the templates it uses; `place`: partition and offset of its
    record.

    `trace`: the `traceparent` and `tracestate` it was sent with; None without them.
    """

    plan_id: Id
    plan: dict[str, Any]
    templates: dict[str, Any] = {}
    accepted: Timestamp
    place: Annotated[list[Count], Field(min_length=2, max_length=2)]
    trace: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None


class PlanSteps(Message):
    """Outcomes of a plan's steps, in order; `sequence` orders the chunks."""

    plan_id: Id
    sequence: Count
    entries: list[dict[str, Any]]


class PlanMemory(Message):
    """One piece of the coordinator's state; exactly one of the four is set."""

    app: str
    at: Timestamp
    seen: SeenTasks | None = None
    begun: PlanBegun | None = None
    steps: PlanSteps | None = None
    heads: KeptHeads | None = None
