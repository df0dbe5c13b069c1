"""Every message on the wire, in the order it flows: agents, tasks, plans, results, points, aggregates, anomalies, events.

Field names are snake_case here and camelCase on the wire. Unknown fields are accepted and kept out of the logic.
Times are epoch milliseconds inside and RFC 3339 on the wire; durations are integers in milliseconds.
Types are strict: `"5"` is not an integer. A message that does not fit raises `pydantic.ValidationError`; `explain` turns
it into sentences that name field and reason.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from schemas.times import format_time, parse_time

TaskType = Literal["agent", "pattern", "http", "function"]
ResultStatus = Literal["success", "failure", "timeout", "cancelled"]
Interval = Literal["minute", "hour", "day"]
Severity = Literal["low", "medium", "high"]
Protocol = Literal["http", "grpc", "gateway", "a2a", "openai", "mcp", "kafka"]
PlanKind = Literal["parallel", "sequential", "dag"]
Strategy = Literal["all", "race", "allSettled", "weighted"]
AnomalyType = Literal[
    "sudden_drop", "low_confidence", "high_variance", "drift", "outlier", "miscalibrated", "slow", "silent"
]
ErrorCode = Literal[
    "timeout",
    "connection",
    "http_5xx",
    "http_4xx",
    "rate_limited",
    "circuit_open",
    "bad_response",
    "refused",
    "no_agent",
    "cancelled",
    "expired",
    "forbidden_target",
    "unknown_function",
    "execution_failed",
    "too_large",
    "unsupported",
    "invalid_plan",
    "internal",
]
EventType = Literal[
    "task:started",
    "task:completed",
    "task:failed",
    "task:retrying",
    "task:cache-hit",
    "task:cancelled",
    "task:expired",
    "task:parked",
    "task:duplicate",
    "task:dead-lettered",
    "circuit:open",
    "circuit:half-open",
    "circuit:close",
    "plan:started",
    "plan:progress",
    "plan:completed",
    "plan:failed",
    "plan:duplicate",
    "anomaly:detected",
    "anomaly:resolved",
    "agent:registered",
    "agent:unregistered",
    "agent:healthy",
    "agent:unhealthy",
    "agent:draining",
    "dispatch:blocked",
]

MAX_DURATION_MS = 7 * 24 * 3600 * 1000

Timestamp = Annotated[
    int,
    BeforeValidator(parse_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]}),
]
Id = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
DurationMs = Annotated[int, Field(ge=1, le=MAX_DURATION_MS)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Message(BaseModel):
    """What all messages share: camelCase on the wire, frozen, strict types, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        strict=True,
        extra="ignore",
    )

    def wire(self) -> dict[str, Any]:
        """The JSON-able form: camelCase names, RFC 3339 times, nothing that is unset."""
        return self.model_dump(by_alias=True, exclude_none=True)


class Limits(Message):
    """How much one agent may be asked: `max_requests` in any `window_ms`, `max_concurrency` at once."""

    max_requests: Annotated[int, Field(ge=1)] = 100
    window_ms: DurationMs = 60_000
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 10
    adaptive: bool | None = None
    """Whether the concurrency is found by trying, `max_concurrency` at most."""
    hedge: bool | None = None
    """Whether the agent may be asked twice at once for one task, because it honours the Idempotency-Key."""


class BreakerLimits(Message):
    """When an agent's circuit opens and for how long; milliseconds.

    `failure_rate` replaces the threshold, `slow_rate` (with `slow_call_duration`) stands beside it; both want `minimum_calls`.
    `mode`: open lets no call through, disabled lets all.
    """

    failure_threshold: Annotated[int, Field(ge=1, le=10_000)] = 5
    reset_timeout: DurationMs = 30_000
    monitoring_period: DurationMs = 60_000
    failure_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    minimum_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    slow_call_duration: DurationMs | None = None
    slow_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    mode: Literal["auto", "open", "disabled"] = "auto"

    @model_validator(mode="after")
    def _slow(self) -> Self:
        if (self.slow_rate is None) != (self.slow_call_duration is None):
            raise ValueError("slowRate and slowCallDuration belong together")
        return self


_NO_SECRET_HEADERS = frozenset(
    ("host", "connection", "content-length", "content-type", "transfer-encoding", "idempotency-key", "accept-encoding")
)


class SecretRef(Message):
    """Where a secret lies; never the secret itself. Exactly one of `env` and `file`.

    It is sent as `Authorization: Bearer ...`, or with `scheme: header` as it is in the header named.
    """

    env: Name | None = None
    file: Name | None = None
    scheme: Literal["bearer", "header"] | None = None
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError('must name a secret by exactly one of {"env": NAME} or {"file": PATH}')
        if (self.scheme == "header") != (self.header is not None):
            raise ValueError('scheme "header" goes with header: NAME, such as X-Api-Key, and with nothing else')
        if self.header is not None and self.header.lower() in _NO_SECRET_HEADERS:
            raise ValueError(f"header: {self.header} is not for secrets")
        return self


_SCHEMES: dict[str, Protocol] = {
    "http": "http",
    "https": "http",
    "grpc": "grpc",
    "grpcs": "grpc",
    "gateway": "gateway",
    "a2a": "a2a",
    "openai": "openai",
    "mcp": "mcp",
    "kafka": "kafka",
}


BUILTIN_PREFIXES = ("http:", "function:", "pattern:")
"""Ids of the agents that tasks of these types make for themselves; nobody can register one."""


class AgentRegistration(Message):
    """One agent and how to reach it (compacted topic `agents`; a null value unregisters)."""

    id: Id
    name: Name | None = None
    endpoint: Annotated[str, Field(min_length=1, max_length=2048)]
    protocol: Protocol | None = None
    capabilities: Annotated[list[Name], Field(max_length=1000)] = []
    metadata: dict[str, Any] | None = None
    limits: Limits | None = None
    breaker: BreakerLimits | None = None
    auth: SecretRef | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        scheme = self.endpoint.partition("://")[0] if "://" in self.endpoint else ""
        if self.protocol is None and scheme not in _SCHEMES:
            raise ValueError(
                f"endpoint: the protocol cannot be told from {self.endpoint[:80]!r}; write http://..., grpc://..., "
                "gateway://... or give protocol"
            )
        if self.transport == "http" and scheme not in ("http", "https"):
            raise ValueError(f"endpoint: an http agent needs an http:// or https:// URL, not {self.endpoint[:80]!r}")
        return self

    @model_validator(mode="after")
    def _unreserved(self) -> Self:
        if self.id.startswith(BUILTIN_PREFIXES):
            raise ValueError(
                f"id: must not begin with {', '.join(BUILTIN_PREFIXES)}: such agents are the pipeline's own"
            )
        return self

    @property
    def transport(self) -> str:
        """The protocol given, or the one the endpoint's scheme tells."""
        return self.protocol or _SCHEMES[self.endpoint.partition("://")[0]]


class TaskMetadata(Message):
    """What a task may ask for beside its payload; fields of the user's own are kept and echoed on the result."""

    timeout: DurationMs | None = None
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    pattern_name: Name | None = None
    dependencies: list[Id] | None = None
    cache: bool = True
    hedge: bool | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")] | None = None
    input: str | None = None
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] | None = None
    headers: dict[str, str] | None = None
    query: dict[str, str] | None = None


_NO_METADATA = TaskMetadata()


class Task(Message):
    """One unit of work. `payload` is any JSON; an `agent` task may give `capabilities` in place of `target`."""

    id: Id
    type: TaskType
    target: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    payload: Any
    capabilities: Annotated[list[Name], Field(min_length=1, max_length=100)] | None = None
    plan_id: Id | None = None
    metadata: Annotated[TaskMetadata, BeforeValidator(lambda value: {} if value is None else value)] = _NO_METADATA
    context: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        if self.target is None and (self.type != "agent" or self.capabilities is None):
            wanted = "target or capabilities" if self.type == "agent" else "target"
            raise ValueError(f"target: a task of type {self.type!r} needs {wanted}")
        return self


class Plan(Message):
    """Tasks that belong together; how they run is told by `kind` or, when missing, by what else is given."""

    id: Id
    kind: PlanKind | None = None
    tasks: Annotated[list[Task], Field(min_length=1, max_length=10_000)]
    strategy: Strategy | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 10
    continue_on_error: bool | None = None
    timeout: DurationMs | None = None
    metadata: dict[str, Any] | None = None


class Control(Message):
    """A wish: cancel one task or one plan, or forget the cached answers of one agent (without `agentId`: all)."""

    type: Literal["cancel", "cache-clear"]
    task_id: Id | None = None
    plan_id: Id | None = None
    agent_id: Id | None = None
    reason: Annotated[str, Field(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.type == "cancel" and (self.task_id is None) == (self.plan_id is None):
            raise ValueError("must name exactly one of taskId or planId")
        return self


class TaskError(Message):
    """Why a task has no answer: a code from the closed list, a sentence, and whether sending it again may help."""

    code: ErrorCode
    message: str
    retryable: bool
    agent_id: Id | None = None


class Result(Message):
    """The one terminal answer of a task. `execution_time` in ms, from intake to answer."""

    task_id: Id
    plan_id: Id | None = None
    status: ResultStatus
    result: Any = None
    error: TaskError | None = None
    confidence: Ratio | None = None
    calibrated_confidence: Ratio | None = None
    agent_id: Id | None = None
    execution_time: Milliseconds
    retries: Count
    cached: bool
    timestamp: Timestamp
    metadata: dict[str, Any]


class ResultsAt(Message):
    """Where the results of a plan's steps lie when they are too many for one record: a topic, and their key there."""

    topic: str
    key: str


class PlanResult(Message):
    """The one terminal answer of a plan; `results` in the order of the plan's tasks, or none and a `reference` to them."""

    plan_id: Id
    kind: PlanKind
    strategy: Strategy | None = None
    status: ResultStatus
    results: list[Result]
    result: Any = None
    confidence: Ratio | None = None
    error: TaskError | None = None
    reference: ResultsAt | None = None
    execution_time: Milliseconds
    timestamp: Timestamp


class ConfidenceDataPoint(Message):
    """What one execution said of its own confidence, and whether it succeeded. `execution_time` in ms.

    With `feedback`: the point of `task_id` once more, unchanged but for `success`, which now says how it really turned out.
    """

    agent_id: Id
    pattern_name: Annotated[str, Field(max_length=256)] = ""
    task_type: Annotated[str, Field(max_length=256)] = ""
    confidence: Ratio
    success: bool
    timestamp: Timestamp
    execution_time: Milliseconds
    task_id: Id | None = None
    feedback: bool = False


class ReliabilityBin(Message):
    """Outcomes of one range of stated confidence: their mean confidence, success rate and its 95 % interval."""

    count: Count
    confidence: Ratio
    success_rate: Ratio
    low: Ratio
    high: Ratio


class AgentCalibration(Message):
    """What an agent's stated confidence has been worth. `table`: calibrated confidence at the stated 0, 0.05, ... 1.

    `gap`: mean confidence less success rate (positive: overconfident) with its 95 % interval; `calibration_error`: root mean
    square over the bins, less what chance alone would show.
    """

    agent_id: Id
    count: Count
    method: Literal["curve", "bins"]
    table: Annotated[list[Ratio], Field(min_length=21, max_length=21)]
    success_rate: Ratio
    gap: float
    gap_low: float
    gap_high: float
    brier: Ratio
    log_loss: float
    calibration_error: Ratio
    bins: list[ReliabilityBin] = []


class Aggregate(Message):
    """One window of one agent, pattern and task type. `variance` is the population variance; times in ms."""

    agent_id: Id
    pattern_name: str
    task_type: str
    interval: Interval
    window_start: Timestamp
    window_end: Timestamp
    final: bool
    count: Count
    success_count: Count
    avg_confidence: Ratio
    min_confidence: Ratio
    max_confidence: Ratio
    variance: Annotated[float, Field(ge=0, le=0.25)]
    success_rate: Ratio
    avg_execution_time: Milliseconds
    p50_execution_time: Milliseconds
    p95_execution_time: Milliseconds
    p99_execution_time: Milliseconds
    p10_confidence: Ratio
    p50_confidence: Ratio
    brier: Ratio
    ece: Ratio
    revision: Count = 0


class AnomalyDetails(Message):
    """The numbers that made a detector speak; `points` are the confidences around the moment, oldest first."""

    current_confidence: float | None = None
    historical_average: float | None = None
    deviation: float | None = None
    threshold: float | None = None
    window: str | None = None
    detector: str
    points: list[float] = []


class Anomaly(Message):
    """One episode of something wrong with an agent; `id` is the same when it fires and when it resolves."""

    id: Id
    type: AnomalyType
    agent_id: Id
    pattern_name: str | None = None
    severity: Severity
    state: Literal["firing", "resolved"]
    detected_at: Timestamp
    details: AnomalyDetails


class Event(Message):
    """A lifecycle notice. `data` holds what its `type` documents."""

    id: Id
    type: EventType
    timestamp: Timestamp
    data: dict[str, Any]


class SeenTasks(Message):
    """Digests of task ids that were answered, base64; `sequence` orders the chunks."""

    sequence: Count
    digests: Annotated[str, Field(max_length=1_000_000)]


class BreakerState(Message):
    """A circuit breaker. Times are ages in ms."""

    state: Literal["closed", "open", "half_open"]
    failures: list[Count] = []
    open_for: Count = 0
    successes: Count = 0
    rates: list[Annotated[list[Count], Field(min_length=4, max_length=4)]] = []
    """Calls within the window as `[age in ms, calls, failures, slow calls]`, where the circuit goes by their shares."""


class LimiterState(Message):
    """A rate limit: `[age in ms, calls]` of those within the window, oldest first."""

    log: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] = []
    paused_for: Count = 0


class HealthState(Message):
    """How an agent's calls ended lately: failures and ejections in a row, and how long it is still out; ms."""

    failed: Count = 0
    ejections: Count = 0
    ejected_for: Count = 0


class AgentGuard(Message):
    """What an agent's circuit breaker and rate limit had seen."""

    agent_id: Id
    breaker: BreakerState
    limiter: LimiterState
    concurrency: Annotated[float, Field(ge=1)] | None = None
    """What was found of an agent whose limits are adaptive."""
    health: HealthState | None = None


class AgentStanding(Message):
    """What its home knows of an agent, for those that choose among several (compacted topic `standings`).

    `load`: tasks that wait for it or are being called; `response_time` in ms and `confidence` are of recent answers.
    """

    agent_id: Id
    at: Timestamp
    circuit: Literal["closed", "open", "half_open"] = "closed"
    open_until: Timestamp | None = None
    healthy: bool = True
    reason: Literal["", "checks", "calls"] = ""
    ejected_until: Timestamp | None = None
    load: Count = 0
    concurrency: Annotated[int, Field(ge=1)] | None = None
    response_time: Milliseconds | None = None
    confidence: Ratio | None = None


class KeptAnswer(Message):
    """A cached answer in its slot of the cache."""

    slot: Count
    key: str
    agent_id: Id
    confidence: Ratio
    value: Any
    expires: Timestamp


class HomeState(Message):
    """One thing a home partition must not forget when it moves; exactly one of the three is there."""

    app: str
    at: Timestamp
    seen: SeenTasks | None = None
    guard: AgentGuard | None = None
    answer: KeptAnswer | None = None


class PlanBegun(Message):
    """A plan under way: as it was sent, with the templates it uses; `place`: partition and offset of its record."""

    plan_id: Id
    plan: dict[str, Any]
    templates: dict[str, Any] = {}
    accepted: Timestamp
    place: Annotated[list[Count], Field(min_length=2, max_length=2)]


class PlanSteps(Message):
    """What happened to a plan's steps, in order; `sequence` orders the chunks."""

    plan_id: Id
    sequence: Count
    entries: list[dict[str, Any]]


class PlanMemory(Message):
    """One thing the coordinator must not forget; exactly one of the three is there."""

    app: str
    at: Timestamp
    seen: SeenTasks | None = None
    begun: PlanBegun | None = None
    steps: PlanSteps | None = None


def explain(error: ValidationError) -> str:
    """One sentence per fault, each naming field (as on the wire) and reason; at most three, secrets never quoted.

    >>> try: Task.model_validate({"id": "t", "type": "agnt", "payload": 1, "target": "a"})
    ... except ValidationError as e: print(explain(e))
    type: input should be 'agent', 'pattern', 'http' or 'function'
    """
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    lines = []
    for fault in faults[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        reason = reason if fault["type"] == "value_error" else reason[:1].lower() + reason[1:]
        lines.append(f"{where}: {reason}" if where else reason)
    if len(faults) > 3:
        lines.append(f"and {len(faults) - 3} more")
    return "; ".join(lines)
