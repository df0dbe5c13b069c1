"""The metrics that dispatch, plans and schedules count, and how others are read with each request. One registry per
worker: two workers can run in one process.

In: counted events; functions that return present values. Out: metric families for `/metrics`, as defined in
`metric_definitions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from schemas.messages.tasks import ResultStatus
from streams.metric_definitions import BY_NAME, Definition

PARK_REASONS = ("circuit_open", "rate_limited", "retry_after", "no_agent", "not_before")
TURNS = {"open": "open", "half-open": "half_open", "close": "closed"}
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


Row = tuple[tuple[str, ...], float]
"""One series now: the values of its labels, and its value."""


class Observed(Collector):
    """Families that are read while the page is written, one sample at a time: nothing is kept up to date for them,
    nothing remains of what is gone, and the writer may pause between two samples.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families: list[tuple[Definition, Callable[[], Iterable[Row]]]] = []
        registry.register(self)

    def add(self, name: str, rows: Callable[[], Iterable[Row]]) -> None:
        """Add a family. `rows` must tolerate changes between two of its samples."""
        self.add_defined(BY_NAME[name], rows)

    def add_defined(self, definition: Definition, rows: Callable[[], Iterable[Row]]) -> None:
        """As `add`, for a metric that is defined elsewhere."""
        self._families.append((definition, rows))

    def collect(self) -> Iterable[Metric]:
        """The families; their samples are made when they are read."""
        for definition, rows in self._families:
            yield _family(definition, _Samples(definition, rows))


def family(name: str, rows: Iterable[Row]) -> Metric:
    """One metric with its samples, for collectors that read all of theirs at once."""
    return _family(BY_NAME[name], list(_Samples(BY_NAME[name], lambda: rows)))


def _family(definition: Definition, samples: Any) -> Metric:
    found = Metric(definition.name, definition.help, definition.kind)
    found.samples = samples
    return found


class _Samples:
    """Samples that are made when they are read."""

    def __init__(self, definition: Definition, rows: Callable[[], Iterable[Row]]) -> None:
        self._name = definition.name + ("_total" if definition.kind == "counter" else "")
        self._labels = definition.labels
        self._rows = rows

    def __iter__(self) -> Iterator[Sample]:
        for values, value in self._rows():
            yield Sample(self._name, dict(zip(self._labels, values, strict=True)), value)


def _counter(name: str, registry: CollectorRegistry) -> Counter:
    return Counter(name, BY_NAME[name].help, BY_NAME[name].labels, registry=registry)


def _gauge(name: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, BY_NAME[name].help, registry=registry)


def _histogram(name: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, BY_NAME[name].help, buckets=SECONDS, registry=registry)


class DispatchMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.tasks = _counter("parallax_tasks", registry)
        self.duration = _histogram("parallax_task_duration_seconds", registry)
        self.retries = _counter("parallax_dispatch_retries", registry)
        self.forwarded = _counter("parallax_tasks_forwarded", registry)
        self.handed_over = _counter("parallax_tasks_handed_over", registry)
        self.parked = _counter("parallax_tasks_parked", registry)
        self.cache_hits = _counter("parallax_cache_hits", registry)
        self.cache_misses = _counter("parallax_cache_misses", registry)
        self.duplicates = _counter("parallax_tasks_duplicate", registry)
        self.dead_letters = _counter("parallax_dead_letters", registry)
        self.rerouted = _counter("parallax_tasks_rerouted", registry)
        self.hedges = _counter("parallax_dispatch_hedges", registry)
        self.turns = _counter("parallax_circuit_transitions", registry)
        self._by_status = {status: self.tasks.labels(status) for status in get_args(ResultStatus)}
        # A series that begins with its first event shows no increase: alerts would miss it.
        _begin(self.parked, PARK_REASONS)
        _begin(self.dead_letters, ("decode", "validate", "dispatch"))
        _begin(self.turns, TURNS.values())

    def finished(self, status: str, seconds: float) -> None:
        """Count a task's result."""
        self._by_status[status].inc()
        self.duration.observe(seconds)

    def circuit(self, kind: str) -> None:
        """Count a change of a circuit: `kind` is open, half-open or close."""
        self.turns.labels(TURNS[kind]).inc()


class PlanMetrics:
    """Counters of the plan coordinator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.plans = _counter("parallax_plans", registry)
        self.active = _gauge("parallax_plans_active", registry)
        self.steps = _counter("parallax_plan_steps", registry)
        self.duration = _histogram("parallax_plan_duration_seconds", registry)
        self.duplicates = _counter("parallax_plans_duplicate", registry)
        self.dead_letters = _counter("parallax_plans_dead_letters", registry)
        for counter in (self.plans, self.steps):
            _begin(counter, get_args(ResultStatus))


class ScheduleMetrics:
    """Counters of the role `schedules`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = _gauge("parallax_scheduled_tasks", registry)
        self.released = _counter("parallax_scheduled_tasks_released", registry)
        self.duplicates = _counter("parallax_scheduled_tasks_duplicate", registry)
        self.schedules = _gauge("parallax_schedules", registry)
        self.fired = _counter("parallax_schedule_tasks", registry)
        self.refused = _counter("parallax_schedules_dead_letters", registry)
        self.lateness = _histogram("parallax_scheduled_task_lateness_seconds", registry)


def _begin(counter: Counter, labels: Iterable[str]) -> None:
    for label in labels:
        counter.labels(label)
