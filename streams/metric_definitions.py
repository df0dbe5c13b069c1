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
    Definition("counter", "parallax_tasks", "Terminal results by status", ("status",)),
    Definition("histogram", "parallax_task_duration_seconds", "From intake to answer"),
    Definition("counter", "parallax_dispatch_retries", "Calls made again after a failure"),
    Definition("counter", "parallax_tasks_forwarded", "Tasks sent on to their agent's owner partition"),
    Definition("counter", "parallax_tasks_handed_over", "Pattern tasks given to the plan coordinator"),
    Definition("counter", "parallax_tasks_parked", "Tasks put aside until their agent is free", ("reason",)),
    Definition("counter", "parallax_cache_hits", "Tasks answered from the cache"),
    Definition("counter", "parallax_cache_misses", "Tasks the cache had no answer for"),
    Definition("counter", "parallax_tasks_duplicate", "Tasks whose id was answered already"),
    Definition("counter", "parallax_dead_letters", "Records refused, by stage", ("stage",)),
    Definition("counter", "parallax_tasks_rerouted", "Tasks given to another agent as their first took no call"),
    Definition("counter", "parallax_dispatch_hedges", "Second calls beside a first that took long"),
    Definition("counter", "parallax_circuit_transitions", "Circuits that opened, half opened, closed", ("to",)),
    # Plans
    Definition("counter", "parallax_plans", "Plans that ended, by status", ("status",)),
    Definition("gauge", "parallax_plans_active", "Plans under way on this worker"),
    Definition("counter", "parallax_plan_steps", "Steps of plans that ended, by status", ("status",)),
    Definition("histogram", "parallax_plan_duration_seconds", "From acceptance to result"),
    Definition("counter", "parallax_plans_duplicate", "Plans whose id was there before"),
    Definition("counter", "parallax_plans_dead_letters", "Records on plans refused"),
    # Schedules
    Definition("gauge", "parallax_scheduled_tasks", "Tasks of this worker that wait for their time"),
    Definition("counter", "parallax_scheduled_tasks_released", "Tasks whose time came, handed to dispatch"),
    Definition("counter", "parallax_scheduled_tasks_duplicate", "Tasks whose id waits for its time already"),
    Definition("gauge", "parallax_schedules", "Schedules of this worker"),
    Definition("counter", "parallax_schedule_tasks", "Tasks made by schedules"),
    Definition("counter", "parallax_schedules_dead_letters", "Records on schedules refused"),
    Definition(
        "histogram", "parallax_scheduled_task_lateness_seconds", "From the time of a task or schedule to its release"
    ),
    # Agents that live in this worker's partitions
    Definition("gauge", "parallax_agents", "Agents that live here and were called"),
    Definition("gauge", "parallax_agent_healthy", "1 while an agent is well, 0 while it is not", ("agent",)),
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
    Definition("gauge", "parallax_gateway_outstanding", "Requests that wait for such an agent's answer"),
    Definition(
        "counter",
        "parallax_gateway_messages",
        "Messages of such agents: answers in time, late answers, answers to no request, and refusals",
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
        "Points too late for a window of that length, of the series kept here",
        ("interval",),
    ),
    Definition(
        "gauge",
        "parallax_stats_event_time_lag_seconds",
        "How far the events that are counted lie behind the clock; 0 where all that was there is counted",
        ("partition",),
    ),
    Definition("counter", "parallax_stats_process_cpu_seconds", "CPU time of the statistics' own process"),
    Definition("gauge", "parallax_stats_process_resident_memory_bytes", "Memory of the statistics' own process"),
    Definition("counter", "parallax_anomalies", "Anomalies reported as firing", ANOMALY),
    Definition("gauge", "parallax_anomalies_firing", "Anomalies that are firing, of the series kept here", ANOMALY),
    # The worker as a whole
    Definition("gauge", "parallax_build_info", "1; its labels tell what runs", ("version", "python")),
    Definition("gauge", "parallax_role_ready", "1 while a role of this worker has its partitions and works", ("role",)),
    Definition(
        "counter",
        "parallax_log_changes",
        "Partitions opened again as their topic was made anew or their log lost its end",
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
        "Consumers that stood still or broke and were replaced by another one",
        ("role",),
    ),
    Definition(
        "counter",
        "parallax_expired_records",
        "Records that were removed from their topic before they were worked on, at most",
        ("topic",),
    ),
    Definition(
        "gauge", "parallax_topic_retention_seconds", "How long a topic keeps records; absent if forever", ("topic",)
    ),
    Definition(
        "gauge",
        "parallax_oldest_unfinished_record_age_seconds",
        "Age of the oldest record of an owned partition that is not finished; 0: all are",
        PARTITION,
    ),
    Definition(
        "gauge", "parallax_consumer_lag_messages", "Records of an owned partition that are not finished", PARTITION
    ),
    Definition(
        "gauge",
        "parallax_partition_committable_offset",
        "Every record of an owned partition before this offset is finished",
        PARTITION,
    ),
    Definition(
        "gauge",
        "parallax_partition_inflight_messages",
        "Records of an owned partition that were taken and are not finished; also those that wait on their topic",
        PARTITION,
    ),
    Definition(
        "gauge",
        "parallax_partition_blocked_seconds",
        "How long the oldest record that holds a partition's commit has been worked on; 0: none does, or it waits for its turn",
        PARTITION,
    ),
)
BY_NAME = {definition.name: definition for definition in DEFINITIONS}
