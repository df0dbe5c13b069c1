"""The metrics that dispatch and plans count, and how others are read with each request. One registry per worker, so that two
can live in a process.

In: what happened; functions that tell what is the case now. Out: families for `/metrics`; every one of them is explained in
`deploy/prometheus/README.md`. Labels are few and bounded: never a task's id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from schemas.messages.tasks import ResultStatus

PARK_REASONS = ("circuit_open", "retry_after", "queue_full", "holds_commit", "no_agent", "not_before")
TURNS = {"open": "open", "half-open": "half_open", "close": "closed"}
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


Row = tuple[tuple[str, ...], float]
"""One series now: the values of its labels, and its value."""


class Observed(Collector):
    """Families that are read from elsewhere while the page is written, one sample at a time: nothing is kept up to date for
    them, nothing is left over when what they tell of has gone, and the writer of the page may pause between two samples.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families: list[tuple[Literal["gauge", "counter"], str, str, tuple[str, ...], Callable[[], Iterable[Row]]]]
        self._families = []
        registry.register(self)

    def add(
        self,
        kind: Literal["gauge", "counter"],
        name: str,
        documentation: str,
        rows: Callable[[], Iterable[Row]],
        labels: tuple[str, ...] = (),
    ) -> None:
        """`name` of a counter is without `_total`. `rows` must stand that the loop turns while it is read."""
        self._families.append((kind, name, documentation, labels, rows))

    def collect(self) -> Iterable[Metric]:
        """The families, their samples still to be made."""
        for kind, name, documentation, labels, rows in self._families:
            family = Metric(name, documentation, kind)
            found: Any = _Samples(name + ("_total" if kind == "counter" else ""), labels, rows)
            family.samples = found
            yield family


class _Samples:
    """Made while they are read."""

    def __init__(self, name: str, labels: tuple[str, ...], rows: Callable[[], Iterable[Row]]) -> None:
        self._name = name
        self._labels = labels
        self._rows = rows

    def __iter__(self) -> Iterator[Sample]:
        for values, value in self._rows():
            yield Sample(self._name, dict(zip(self._labels, values, strict=True)), value)


class DispatchMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.tasks = Counter("parallax_tasks", "Terminal results by status", ["status"], registry=registry)
        self.duration = Histogram(
            "parallax_task_duration_seconds", "From intake to answer", buckets=SECONDS, registry=registry
        )
        self.retries = Counter("parallax_dispatch_retries", "Calls made again after a failure", registry=registry)
        self.forwarded = Counter(
            "parallax_tasks_forwarded", "Tasks sent on to their agent's owner partition", registry=registry
        )
        self.handed_over = Counter(
            "parallax_tasks_handed_over", "Pattern tasks given to the plan coordinator", registry=registry
        )
        self.parked = Counter(
            "parallax_tasks_parked", "Tasks put aside until their agent is free", ["reason"], registry=registry
        )
        self.cache_hits = Counter("parallax_cache_hits", "Tasks answered from the cache", registry=registry)
        self.cache_misses = Counter("parallax_cache_misses", "Tasks the cache had no answer for", registry=registry)
        self.duplicates = Counter("parallax_tasks_duplicate", "Tasks whose id was answered already", registry=registry)
        self.dead_letters = Counter("parallax_dead_letters", "Records refused, by stage", ["stage"], registry=registry)
        self.rerouted = Counter(
            "parallax_tasks_rerouted", "Tasks given to another agent as their first took no call", registry=registry
        )
        self.hedges = Counter(
            "parallax_dispatch_hedges", "Second calls beside a first that took long", registry=registry
        )
        self.turns = Counter(
            "parallax_circuit_transitions", "Circuits that opened, half opened, closed", ["to"], registry=registry
        )
        self._by_status = {status: self.tasks.labels(status) for status in ("success", "failure")}
        # A series that begins with its first event shows no increase: alerts would miss it.
        _begin(self.parked, PARK_REASONS)
        _begin(self.dead_letters, ("decode", "validate", "dispatch"))
        _begin(self.turns, TURNS.values())

    def finished(self, status: str, seconds: float) -> None:
        """A task has its result."""
        self._by_status[status].inc()
        self.duration.observe(seconds)

    def circuit(self, kind: str) -> None:
        """A circuit changed: `kind` is open, half-open or close."""
        self.turns.labels(TURNS[kind]).inc()


class PlanMetrics:
    """What the plan coordinator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.plans = Counter("parallax_plans", "Plans that ended, by status", ["status"], registry=registry)
        self.active = Gauge("parallax_plans_active", "Plans under way on this worker", registry=registry)
        self.steps = Counter(
            "parallax_plan_steps", "Steps of plans that ended, by status", ["status"], registry=registry
        )
        self.duration = Histogram(
            "parallax_plan_duration_seconds", "From acceptance to result", buckets=SECONDS, registry=registry
        )
        self.duplicates = Counter("parallax_plans_duplicate", "Plans whose id was there before", registry=registry)
        self.dead_letters = Counter("parallax_plans_dead_letters", "Records on plans refused", registry=registry)
        for counter in (self.plans, self.steps):
            _begin(counter, get_args(ResultStatus))


class ScheduleMetrics:
    """What the role `schedules` counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "parallax_scheduled_tasks", "Tasks of this worker that wait for their time", registry=registry
        )
        self.released = Counter(
            "parallax_scheduled_tasks_released", "Tasks whose time came, handed to dispatch", registry=registry
        )
        self.duplicates = Counter(
            "parallax_scheduled_tasks_duplicate", "Tasks whose id waits for its time already", registry=registry
        )
        self.schedules = Gauge("parallax_schedules", "Schedules of this worker", registry=registry)
        self.fired = Counter("parallax_schedule_tasks", "Tasks made by schedules", registry=registry)
        self.refused = Counter("parallax_schedules_dead_letters", "Records on schedules refused", registry=registry)
        self.lateness = Histogram(
            "parallax_scheduled_task_lateness_seconds",
            "From the time of a task or schedule to its release",
            buckets=SECONDS,
            registry=registry,
        )


def _begin(counter: Counter, labels: Iterable[str]) -> None:
    for label in labels:
        counter.labels(label)
