"""Every message on the wire. Import them from here; the modules hold them by what they are about.

Field names are snake_case here and camelCase on the wire. Unknown fields are accepted and kept out of the logic.
Times are epoch milliseconds inside and RFC 3339 on the wire; durations are integers in milliseconds.
Types are strict: `"5"` is not an integer. A message that does not fit raises `pydantic.ValidationError`; `explain` turns
it into sentences that name field and reason.
"""

from schemas.messages.agents import (
    BUILTIN_PREFIXES,
    AgentRegistration,
    AgentStanding,
    BreakerLimits,
    ConfidenceSource,
    Limits,
    Protocol,
    SecretRef,
)
from schemas.messages.base import (
    MAX_DURATION_MS,
    Count,
    DurationMs,
    Id,
    Message,
    Milliseconds,
    Name,
    Ratio,
    Timestamp,
    explain,
)
from schemas.messages.confidence import (
    AgentCalibration,
    Aggregate,
    Anomaly,
    AnomalyDetails,
    AnomalyType,
    ConfidenceDataPoint,
    Interval,
    ReliabilityBin,
    Severity,
)
from schemas.messages.events import Event, EventType
from schemas.messages.memory import (
    AgentGuard,
    BreakerState,
    HealthState,
    HomeState,
    KeptAnswer,
    LimiterState,
    PlanBegun,
    PlanMemory,
    PlanSteps,
    SeenTasks,
)
from schemas.messages.plans import Plan, PlanKind, PlanResult, ResultsAt, Strategy
from schemas.messages.tasks import Control, ErrorCode, Result, ResultStatus, Task, TaskError, TaskMetadata, TaskType

__all__ = [
    "BUILTIN_PREFIXES",
    "MAX_DURATION_MS",
    "AgentCalibration",
    "AgentGuard",
    "AgentRegistration",
    "AgentStanding",
    "Aggregate",
    "Anomaly",
    "AnomalyDetails",
    "AnomalyType",
    "BreakerLimits",
    "BreakerState",
    "ConfidenceDataPoint",
    "ConfidenceSource",
    "Control",
    "Count",
    "DurationMs",
    "ErrorCode",
    "Event",
    "EventType",
    "HealthState",
    "HomeState",
    "Id",
    "Interval",
    "KeptAnswer",
    "LimiterState",
    "Limits",
    "Message",
    "Milliseconds",
    "Name",
    "Plan",
    "PlanBegun",
    "PlanKind",
    "PlanMemory",
    "PlanResult",
    "PlanSteps",
    "Protocol",
    "Ratio",
    "ReliabilityBin",
    "Result",
    "ResultStatus",
    "ResultsAt",
    "SecretRef",
    "SeenTasks",
    "Severity",
    "Strategy",
    "Task",
    "TaskError",
    "TaskMetadata",
    "TaskType",
    "Timestamp",
    "explain",
]
