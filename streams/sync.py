"""The blocking twin of the client: the same names, for scripts, notebooks, web handlers with threads.

    from streams.sync import Client

    with Client("localhost:9092") as client:
        print(client.run("summarizer", {"text": "..."}).value)

One thread with an event loop serves all clients of the process; a `Client` may be used from any number of threads. Subscriptions
and `map` are generators: close them, or leave the loop, to stop reading.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence, Sized
from types import TracebackType
from typing import Any, TypeVar, overload

from schemas.messages import (
    AgentRegistration,
    Aggregate,
    Anomaly,
    Event,
    Interval,
    Plan,
    PlanResult,
    ResultStatus,
    Schedule,
    Severity,
)
from streams import client as aio
from streams.client import (
    AgentRefused,
    AgentRejected,
    AgentServerError,
    AgentTimeout,
    AgentUnreachable,
    BadResponse,
    CircuitOpen,
    ClientClosed,
    ClientError,
    ExecutionFailed,
    ForbiddenTarget,
    InternalError,
    InvalidPlan,
    InvalidTask,
    InvalidValue,
    KafkaUnreachable,
    NoAgent,
    NotFound,
    NoWorker,
    RateLimited,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskResult,
    TooLarge,
    TopicsMissing,
    UnknownFunction,
    Unsupported,
    WaitTimeout,
    dag,
    parallel,
    sequence,
    step,
)
from streams.client.blocking import each, read_in_thread, wait_for
from streams.client.client import LOOK_BACK
from streams.client.requests import TaskKind
from streams.client.times import Duration, Moment, Since
from streams.settings import Settings

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

T = TypeVar("T")


class Handle:
    """A submitted task; see `streams.Handle`."""

    def __init__(self, handle: aio.Handle) -> None:
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return repr(self._handle)

    @property
    def done(self) -> bool:
        """Whether the result has come."""
        return self._handle.done

    @overload
    def result(self, wait: Duration | None = None, *, into: None = None) -> TaskResult[Any]: ...

    @overload
    def result(self, wait: Duration | None = None, *, into: type[T]) -> TaskResult[T]: ...

    def result(self, wait: Duration | None = None, *, into: Any = None) -> TaskResult[Any]:
        """Wait for the result, at most `wait`. Raises `TaskFailed`, `WaitTimeout`, `NoWorker`, `InvalidValue`."""
        return wait_for(self._handle.result(wait, into=into))

    def outcome(self, wait: Duration | None = None) -> TaskResult[Any]:
        """As `result`, but a failed task's result is returned too."""
        return wait_for(self._handle.outcome(wait))

    def cancel(self, reason: str | None = None) -> None:
        """Request that the task be cancelled."""
        wait_for(self._handle.cancel(reason))


class AgentDirectory:
    """`client.agents`."""

    def __init__(self, client: aio.Client) -> None:
        self._client = client

    def add(
        self, agent_id: str, endpoint: str, *, capabilities: Sequence[str] = (), **registration: Any
    ) -> AgentRegistration:
        """Register an agent, or replace its registration; arguments as for `streams.Client`."""
        return wait_for(self._client.agents.add(agent_id, endpoint, capabilities=capabilities, **registration))

    def rm(self, agent_id: str) -> None:
        """Remove an agent."""
        wait_for(self._client.agents.rm(agent_id))

    def list(self) -> list[AgentRegistration]:
        """All registered agents, by id."""
        return wait_for(self._client.agents.list())


class ScheduleDirectory:
    """`client.schedules`."""

    def __init__(self, client: aio.Client) -> None:
        self._client = client

    def add(self, schedule_id: str, target: str | None, payload: Any = None, **options: Any) -> Schedule:
        """Add a schedule, or replace the one with its id; arguments as for `streams.Client`."""
        return wait_for(self._client.schedules.add(schedule_id, target, payload, **options))

    def pause(self, schedule_id: str) -> Schedule:
        """Pause a schedule: it makes no tasks."""
        return wait_for(self._client.schedules.pause(schedule_id))

    def resume(self, schedule_id: str) -> Schedule:
        """Resume a schedule from now on."""
        return wait_for(self._client.schedules.resume(schedule_id))

    def rm(self, schedule_id: str) -> None:
        """Remove a schedule; tasks that it made continue."""
        wait_for(self._client.schedules.rm(schedule_id))

    def list(self) -> list[Schedule]:
        """All valid schedules, by id."""
        return wait_for(self._client.schedules.list())


class Client:
    """`with Client("localhost:9092") as client:`; arguments as for `streams.Client`."""

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        topic_prefix: str | None = None,
        app_id: str | None = None,
        web: str | None = None,
        token: str | None = None,
        give_up_after: Duration | None = 30.0,
        settings: Settings | None = None,
        **kafka: Any,
    ) -> None:
        async def made() -> aio.Client:
            return aio.Client(
                bootstrap_servers,
                topic_prefix=topic_prefix,
                app_id=app_id,
                web=web,
                token=token,
                give_up_after=give_up_after,
                settings=settings,
                **kafka,
            )

        self._client = wait_for(made())
        self.settings = self._client.settings
        self.agents = AgentDirectory(self._client)
        self.schedules = ScheduleDirectory(self._client)

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Connect. Raises `KafkaUnreachable`, `TopicsMissing`, `ClientError`."""
        wait_for(self._client.start())

    def close(self) -> None:
        """Disconnect. Calls that wait raise `ClientClosed`; submitted tasks continue."""
        wait_for(self._client.close())

    @overload
    def run(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        into: None = None,
        wait: Duration | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> TaskResult[Any]: ...

    @overload
    def run(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        into: type[T],
        wait: Duration | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> TaskResult[T]: ...

    def run(self, target: str | None, payload: Any = None, **options: Any) -> TaskResult[Any]:
        """Submit a task and return its result; see `streams.Client.run`."""
        return wait_for(self._client.run(target, payload, **options))

    def submit(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> Handle:
        """Submit a task; returns when Kafka has it. See `streams.Client.submit`."""
        return Handle(
            wait_for(
                self._client.submit(
                    target,
                    payload,
                    timeout=timeout,
                    deadline=deadline,
                    expires_in=expires_in,
                    not_before=not_before,
                    id=id,
                    capabilities=capabilities,
                    type=type,
                    **metadata,
                )
            )
        )

    @overload
    def map(
        self,
        target: str | None,
        payloads: Iterable[Any],
        *,
        concurrency: int = 100,
        ordered: bool = False,
        tolerate: float = 0.0,
        into: None = None,
        **options: Any,
    ) -> Generator[TaskResult[Any]]: ...

    @overload
    def map(
        self,
        target: str | None,
        payloads: Iterable[Any],
        *,
        concurrency: int = 100,
        ordered: bool = False,
        tolerate: float = 0.0,
        into: type[T],
        **options: Any,
    ) -> Generator[TaskResult[T]]: ...

    def map(
        self,
        target: str | None,
        payloads: Iterable[Any],
        *,
        concurrency: int = 100,
        ordered: bool = False,
        tolerate: float = 0.0,
        into: Any = None,
        **options: Any,
    ) -> Generator[TaskResult[Any]]:
        """One result per payload, as they end or in order; see `streams.Client.map`.

        A thread of its own reads a generator of payloads: it may block, and may be another `map`.
        """
        return each(
            self._client.map(
                target,
                payloads if isinstance(payloads, Sized) else read_in_thread(payloads),
                concurrency=concurrency,
                ordered=ordered,
                tolerate=tolerate,
                into=into,
                **options,
            )
        )

    def handle(self, id: str, *, since: Since = LOOK_BACK) -> Handle:
        """A handle for a task that was sent before; its result is searched from `since` on."""
        return Handle(wait_for(self._client.handle(id, since=since)))

    def retry(self, id: str, *, since: Since = LOOK_BACK) -> Handle:
        """Submit a task again under a new id. Raises `NotFound`."""
        return Handle(wait_for(self._client.retry(id, since=since)))

    def cancel(self, id: str, *, reason: str | None = None) -> None:
        """Request that the task or plan of this id be cancelled."""
        wait_for(self._client.cancel(id, reason=reason))

    def feedback(self, id: str, *, success: bool, since: Since = LOOK_BACK) -> None:
        """Report the true outcome of an answered task. Raises `NotFound`."""
        wait_for(self._client.feedback(id, success=success, since=since))

    def plan(self, plan: Mapping[str, Any] | Plan, *, wait: Duration | None = None) -> PlanResult:
        """Submit a plan and return its result, with any status."""
        return wait_for(self._client.plan(plan, wait=wait))

    def results(
        self, *, agent: str | None = None, status: ResultStatus | None = None, since: Since | None = None
    ) -> Generator[TaskResult[Any]]:
        """Results of all tasks, from now on or from `since`."""
        return each(self._client.results(agent=agent, status=status, since=since))

    def events(self, *types: str, since: Since | None = None) -> Generator[Event]:
        """Lifecycle events whose type begins with one of `types`."""
        return each(self._client.events(*types, since=since))

    def anomalies(
        self, *, agent: str | None = None, min_severity: Severity = "low", since: Since | None = None
    ) -> Generator[Anomaly]:
        """Anomalies as they fire and resolve."""
        return each(self._client.anomalies(agent=agent, min_severity=min_severity, since=since))

    def aggregates(
        self, *, agent: str | None = None, interval: Interval | None = None, since: Since | None = None
    ) -> Generator[Aggregate]:
        """Windows of agents' statistics, each revision as it is written."""
        return each(self._client.aggregates(agent=agent, interval=interval, since=since))

    def stats(self, agent: str, *, last: Duration = "1h", pattern: str | None = None) -> dict[str, Any]:
        """An agent's statistics from a worker. Needs `web`."""
        return wait_for(self._client.stats(agent, last=last, pattern=pattern))
