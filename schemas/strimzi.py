"""The topics as Strimzi's operator takes them: `KafkaTopic` resources in place of `parallax topics apply`. Pure.

In: the table of topics, the Kafka cluster's name, partitions and copies. Out: one resource a topic, dead letters included, with
the same settings as `topics apply` gives them. Never writes a file; `parallax docs strimzi` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from schemas.topics import (
    DEFAULT_PARTITIONS,
    DEFAULT_PREFIX,
    TOPICS,
    dead_letter_config,
    dead_letter_topics,
    full_name,
)

API_VERSION = "kafka.strimzi.io/v1"
DEFAULT_CLUSTER = "my-cluster"
DEFAULT_REPLICAS = 3
PART_OF = {"app.kubernetes.io/part-of": "parallax-streams"}


def kafka_topics(
    cluster: str = DEFAULT_CLUSTER,
    prefix: str = DEFAULT_PREFIX,
    partitions: int = DEFAULT_PARTITIONS,
    replicas: int | None = DEFAULT_REPLICAS,
) -> list[dict[str, Any]]:
    """One `KafkaTopic` a topic, in the table's order, dead letters last. `replicas` None: the broker's default.

    >>> [topic["spec"]["partitions"] for topic in kafka_topics(prefix="p.", partitions=24)[:4]]
    [24, 24, 24, 1]
    """
    return [
        _resource(
            "KafkaTopic",
            name,
            cluster,
            {"topicName": name} | _sizes(count or partitions, replicas) | {"config": config},
        )
        for name, count, config in _rows(prefix)
    ]


def _rows(prefix: str) -> Iterator[tuple[str, int | None, dict[str, str]]]:
    for topic in TOPICS:
        yield full_name(topic.name, prefix), topic.partitions, topic.config()
    for name in dead_letter_topics():
        yield full_name(name, prefix), None, dead_letter_config()


def _sizes(partitions: int, replicas: int | None) -> dict[str, int]:
    return {"partitions": partitions} | ({} if replicas is None else {"replicas": replicas})


def _resource(kind: str, name: str, cluster: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"strimzi.io/cluster": cluster} | PART_OF
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
