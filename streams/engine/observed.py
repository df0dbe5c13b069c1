"""What `/metrics` shows of the worker as a whole: its version, its process, its roles, the partitions it owns.

In: the status of every role's partitions and which role is ready, read while the page is written. Out: families in the registry.
It asks no broker.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from streams.engine.partition_status import PartitionStatus
from streams.metrics import Observed, Row


def observe(
    registry: CollectorRegistry,
    partition_statuses: Callable[[], Iterable[PartitionStatus]],
    ready: Callable[[], Mapping[str, bool]],
    log_changes: Callable[[], int],
    dropped_events: Mapping[str, Callable[[], int]] | None = None,
    renewals: Callable[[], Mapping[str, int]] = dict,
    expired: Callable[[], Mapping[str, int]] = dict,
    retention_ms: Callable[[], Mapping[str, int]] = dict,
) -> None:
    """`ready`: by role of this worker. `log_changes`: of all roles together.

    `dropped_events`: role -> progress events that could not be sent so far. `renewals`: role -> consumers given up so far.
    `expired`: topic -> records that expired so far. `retention_ms`: topic -> how long it keeps records, if not forever.
    """
    ProcessCollector(registry=registry)
    observed, where = Observed(registry), ("topic", "partition")
    about = version("parallax-streams"), platform.python_version()

    def lags() -> Iterator[Row]:
        for status in partition_statuses():
            if status.lag is not None:
                yield _name(status), status.lag

    def ages() -> Iterator[Row]:
        for status in partition_statuses():
            if status.oldest_ms is not None:
                yield _name(status), status.oldest_ms / 1000

    def blocked() -> Iterator[Row]:
        for status in partition_statuses():
            found = status.blocking() or {}
            yield _name(status), 0.0 if found.get("waits") else (found.get("age") or 0) / 1000

    observed.add(
        "gauge",
        "parallax_build_info",
        "1; its labels tell what runs",
        lambda: [(about, 1.0)],
        ("version", "python"),
    )
    observed.add(
        "gauge",
        "parallax_role_ready",
        "1 while a role of this worker has its partitions and works",
        lambda: [((role,), float(up)) for role, up in ready().items()],
        ("role",),
    )
    observed.add(
        "counter",
        "parallax_log_changes",
        "Partitions opened again as their topic was made anew or their log lost its end",
        lambda: [((), float(log_changes()))],
        (),
    )
    observed.add(
        "counter",
        "parallax_events_dropped",
        "Progress events that could not be sent; results are not among them",
        lambda: [((role,), float(count())) for role, count in (dropped_events or {}).items()],
        ("role",),
    )
    observed.add(
        "counter",
        "parallax_consumer_renewals",
        "Consumers that stood still or broke and were replaced by another one",
        lambda: [((role,), float(count)) for role, count in renewals().items()],
        ("role",),
    )
    observed.add(
        "counter",
        "parallax_expired_records",
        "Records that were removed from their topic before they were worked on, at most",
        lambda: [((topic,), float(count)) for topic, count in expired().items()],
        ("topic",),
    )
    observed.add(
        "gauge",
        "parallax_topic_retention_seconds",
        "How long a topic keeps records; absent if forever",
        lambda: [((topic,), ms / 1000) for topic, ms in retention_ms().items()],
        ("topic",),
    )
    observed.add(
        "gauge",
        "parallax_oldest_unfinished_record_age_seconds",
        "Age of the oldest record of an owned partition that is not finished; 0: all are",
        ages,
        where,
    )
    observed.add(
        "gauge", "parallax_consumer_lag_messages", "Records of an owned partition that are not finished", lags, where
    )
    observed.add(
        "gauge",
        "parallax_partition_committable_offset",
        "Every record of an owned partition before this offset is finished",
        lambda: ((_name(status), status.committable) for status in partition_statuses()),
        where,
    )
    observed.add(
        "gauge",
        "parallax_partition_inflight_messages",
        "Records of an owned partition that were taken and are not finished; also those that wait on their topic",
        lambda: ((_name(status), status.in_flight) for status in partition_statuses()),
        where,
    )
    observed.add(
        "gauge",
        "parallax_partition_blocked_seconds",
        "How long the oldest record that holds a partition's commit has been worked on; 0: none does, or it waits for its turn",
        blocked,
        where,
    )


def _name(status: PartitionStatus) -> tuple[str, str]:
    return status.topic, str(status.partition)
