"""Every metric of a worker, declared once: name, unit, meaning. One registry per worker, so that two can live in a process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class DispatchMetrics:
    """What dispatch counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tasks = Counter("parallax_tasks", "Terminal results by status", ["status"], registry=registry)
        self.duration = Histogram(
            "parallax_task_duration_seconds", "From intake to answer", buckets=SECONDS, registry=registry
        )
        self.retries = Counter("parallax_dispatch_retries", "Calls made again after a failure", registry=registry)
        self.forwarded = Counter("parallax_tasks_forwarded", "Tasks sent on to their agent's home", registry=registry)
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
        self.healthy = Gauge("parallax_agent_healthy", "1 while an agent is well", ["agent"], registry=registry)
        self.state = Gauge(
            "parallax_circuit_state", "1 for the state an agent's circuit is in", ["agent", "state"], registry=registry
        )
        self._by_status = {status: self.tasks.labels(status) for status in ("success", "failure")}

    def finished(self, status: str, seconds: float) -> None:
        """A task has its result."""
        self._by_status[status].inc()
        self.duration.observe(seconds)

    def circuit(self, agent_id: str, kind: str) -> None:
        """A circuit changed: `kind` is open, half-open or close."""
        for state in ("open", "half-open", "close"):
            self.state.labels(agent_id, state).set(1 if state == kind else 0)


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
