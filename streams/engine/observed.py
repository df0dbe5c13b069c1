"""Metrics of the worker as a whole: its version, its process, its roles, its partitions.

In: the status of every role's partitions and which role is ready, read while the page is written. Out: metric families
in the registry. It asks no broker.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from streams.engine.engine import Engine
from streams.engine.partition_status import PartitionStatus
from streams.metrics import Observed, Row
from streams.settings import RoleName


def observe(
    registry: CollectorRegistry,
    partition_statuses: Callable[[], Iterable[PartitionStatus]],
    ready: Callable[[], Mapping[str, bool]],
    engines: Callable[[], Mapping[RoleName, Engine[Any]]] = dict,
    dropped_events: Callable[[], Mapping[str, int]] = dict,
) -> None:
    """`ready`, `engines`: by role of this worker. `dropped_events`: role -> progress events that could not be sent so
    far.
    """
    ProcessCollector(registry=registry)
    observed = Observed(registry)
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

    def expired() -> Iterator[Row]:
        by_topic = {topic: n for engine in engines().values() for topic, n in engine.expired.by_topic.items()}
        return (((topic,), float(count)) for topic, count in by_topic.items())

    def retention() -> Iterator[Row]:
        by_topic = {topic: ms for engine in engines().values() for topic, ms in engine.ages.retention_ms.items()}
        return (((topic,), ms / 1000) for topic, ms in by_topic.items())

    observed.add("parallax_build_info", lambda: [(about, 1.0)])
    observed.add("parallax_role_ready", lambda: [((role,), float(up)) for role, up in ready().items()])
    observed.add("parallax_log_changes", lambda: [((), float(sum(one.log_changes for one in engines().values())))])
    observed.add("parallax_events_dropped", lambda: [((role,), float(n)) for role, n in dropped_events().items()])
    observed.add(
        "parallax_consumer_renewals", lambda: [((role,), float(one.renewals)) for role, one in engines().items()]
    )
    observed.add("parallax_expired_records", expired)
    observed.add("parallax_topic_retention_seconds", retention)
    observed.add("parallax_oldest_unfinished_record_age_seconds", ages)
    observed.add("parallax_consumer_lag_messages", lags)
    observed.add(
        "parallax_partition_committable_offset",
        lambda: ((_name(status), status.committable) for status in partition_statuses()),
    )
    observed.add(
        "parallax_partition_inflight_messages",
        lambda: ((_name(status), status.in_flight) for status in partition_statuses()),
    )
    observed.add("parallax_partition_blocked_seconds", blocked)


def _name(status: PartitionStatus) -> tuple[str, str]:
    return status.topic, str(status.partition)
