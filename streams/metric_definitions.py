"""Every metric of a worker: kind, name, help text, labels. Pure.

Labels are few and bounded: never a task's id. `deploy/prometheus/README.md` explains how to use each metric. A
counter's name is without `_total`; base units are in the names.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Definition(NamedTuple):
    """One metric."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...] = ()


PARTITION = ("topic", "partition")
ANOMALY = ("type", "severity")

DEFINITIONS = (
    # Tasks
    Definition("counter", "parallax_tasks", "Results, by status", ("status",)),
    Definition("histogram", "parallax_task_duration_seconds", "From the last read of a task's record to its result"),
    Definition("counter", "parallax_dispatch_retries", "Calls repeated after a failure"),
    Definition("counter", "parallax_tasks_forwarded", "Tasks forwarded to their agent's owner partition"),
    Definition("counter", "parallax_tasks_handed_over", "Pattern tasks handed to the plan coordinator"),
    Definition(
        "counter", "parallax_tasks_parked", "Tasks that began a wait which may take long, by reason", ("reason",)
    ),
    Definition("counter", "parallax_cache_hits", "Tasks answered from the cache"),
    Definition("counter", "parallax_cache_misses", "Tasks without an answer in the cache"),
    Definition("counter", "parallax_tasks_duplicate", "Tasks whose id was answered already"),
    Definition("counter", "parallax_dead_letters", "Records refused, by stage", ("stage",)),
    Definition(
        "counter", "parallax_tasks_rerouted", "Tasks moved to another agent because their first one took no call"
    ),
    Definition("counter", "parallax_dispatch_hedges", "Second calls made beside a slow first one"),
    Definition("counter", "parallax_circuit_transitions", "Changes of circuits, by new state", ("to",)),
    # Plans
    Definition("counter", "parallax_plans", "Plans that ended, by status", ("status",)),
    Definition("gauge", "parallax_plans_active", "Plans under way on this worker"),
    Definition("counter", "parallax_plan_steps", "Steps of plans that ended, by status", ("status",)),
    Definition("histogram", "parallax_plan_duration_seconds", "From acceptance to result"),
    Definition("counter", "parallax_plans_duplicate", "Plans whose id was sent before"),
    Definition("counter", "parallax_plans_dead_letters", "Records on plans refused"),
    # Schedules
    Definition("gauge", "parallax_scheduled_tasks", "Tasks of this worker that wait for their time"),
    Definition("counter", "parallax_scheduled_tasks_released", "Tasks handed to dispatch at their time"),
    Definition("counter", "parallax_scheduled_tasks_duplicate", "Tasks refused because their id waits already"),
    Definition("gauge", "parallax_schedules", "Schedules of this worker"),
    Definition("counter", "parallax_schedule_tasks", "Tasks made by schedules"),
    Definition("counter", "parallax_schedules_dead_letters", "Records on schedules refused"),
    Definition(
        "histogram", "parallax_scheduled_task_lateness_seconds", "From the time of a task or schedule to its release"
    ),
    # Agents that live in this worker's partitions
    Definition("gauge", "parallax_agents", "Agents of this worker's partitions that were called"),
    Definition("gauge", "parallax_agent_healthy", "1 while an agent is healthy, else 0", ("agent",)),
    Definition(
        "gauge",
        "parallax_circuit_state",
        "1 for the state an agent's circuit is in, 0 for the others",
        ("agent", "state"),
    ),
    Definition("gauge", "parallax_agent_inflight_calls", "Calls of an agent under way", ("agent",)),
    Definition("gauge", "parallax_agent_waiting_tasks", "Tasks that wait for an agent here", ("agent",)),
    Definition("counter", "parallax_agent_calls", "Calls of an agent that ended", ("agent",)),
    Definition(
        "gauge",
        "parallax_agent_response_seconds",
        "Time an agent takes to answer, smoothed over its last answers",
        ("agent",),
    ),
    Definition(
        "gauge",
        "parallax_agent_confidence_ratio",
        "Confidence an agent states, smoothed over its last calls; a failure counts as 0",
        ("agent",),
    ),
    # Agents that dialled in
    Definition("gauge", "parallax_gateway_agents", "Agents connected to this worker", ("status",)),
    Definition("gauge", "parallax_gateway_outstanding", "Requests to connected agents without an answer yet"),
    Definition(
        "counter",
        "parallax_gateway_messages",
        "Messages of connected agents, by kind: answers in time, late answers, answers to no request, refusals",
        ("kind",),
    ),
    # Statistics
    Definition("counter", "parallax_stats_points", "Data points counted"),
    Definition("counter", "parallax_stats_rejected", "Data points refused"),
    Definition("gauge", "parallax_stats_pending", "Data points read, not counted yet"),
    Definition(
        "counter", "parallax_stats_expired_points", "Data points that retention removed before they were counted"
    ),
    Definition("gauge", "parallax_stats_series", "Series (agent, pattern, task type) kept here"),
    Definition("gauge", "parallax_stats_late_points", "Late points of the series kept here"),
    Definition(
        "gauge",
        "parallax_stats_missed_points",
        "Points too late for their window of that length, of the series kept here",
        ("interval",),
    ),
    Definition(
        "gauge",
        "parallax_stats_event_time_lag_seconds",
        "How far counted events are behind the clock; 0 when all are counted",
        ("partition",),
    ),
    Definition("counter", "parallax_stats_process_cpu_seconds", "CPU time of the separate statistics process"),
    Definition(
        "gauge", "parallax_stats_process_resident_memory_bytes", "Resident memory of the separate statistics process"
    ),
    Definition("counter", "parallax_anomalies", "Anomalies reported as firing", ANOMALY),
    Definition("gauge", "parallax_anomalies_firing", "Anomalies that are firing, of the series kept here", ANOMALY),
    # The worker as a whole
    Definition("gauge", "parallax_build_info", "Always 1; its labels name the versions", ("version", "python")),
    Definition(
        "gauge", "parallax_role_ready", "1 while a role of this worker has its partitions and works, else 0", ("role",)
    ),
    Definition(
        "counter",
        "parallax_log_changes",
        "Partitions reopened because their topic was recreated or their log truncated",
    ),
    Definition(
        "counter",
        "parallax_events_dropped",
        "Progress events that could not be sent; results are not among them",
        ("role",),
    ),
    Definition(
        "counter",
        "parallax_consumer_renewals",
        "Consumers replaced because they made no progress or failed",
        ("role",),
    ),
    Definition(
        "counter",
        "parallax_expired_records",
        "Records removed from their topic before they were processed (an upper bound)",
        ("topic",),
    ),
    Definition(
        "gauge", "parallax_topic_retention_seconds", "How long a topic keeps records; absent if forever", ("topic",)
    ),
    Definition(
        "gauge",
        "parallax_oldest_unfinished_record_age_seconds",
        "Age of the oldest unfinished record of an owned partition; 0: all are finished",
        PARTITION,
    ),
    Definition("gauge", "parallax_consumer_lag_messages", "Unfinished records of an owned partition", PARTITION),
    Definition(
        "gauge",
        "parallax_partition_committable_offset",
        "Every record of an owned partition before this offset is finished",
        PARTITION,
    ),
    Definition(
        "gauge",
        "parallax_partition_inflight_messages",
        "Records of an owned partition that were read and are unfinished, including those that wait on their topic",
        PARTITION,
    ),
    Definition(
        "gauge",
        "parallax_partition_blocked_seconds",
        "How long the record that holds back a partition's commit has been processed; 0: none does, or it waits for its turn",
        PARTITION,
    ),
)
BY_NAME = {definition.name: definition for definition in DEFINITIONS}
