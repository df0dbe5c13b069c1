"""Topics and users as Strimzi's operators take them: `KafkaTopic`s in place of `parallax topics apply`, `KafkaUser`s. Pure.

In: the tables of topics and of rights, the Kafka cluster's name, partitions and copies. Out: one resource a topic, dead letters
included, with the same settings as `topics apply` gives them; one a user, with the rights it needs and no more. Never writes a
file; `parallax docs strimzi` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from schemas.access import Who, grants, strimzi_acls
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
USERS: tuple[tuple[str, tuple[Who, ...]], ...] = (
    ("parallax-streams", ("dispatch", "plans", "stats")),
    ("parallax-producer", ("producer",)),
    ("parallax-consumer", ("consumer",)),
    ("parallax-operator", ("operator",)),
)
"""Workers; producers that submit and wait; consumers (in groups that begin with their own name); operators."""
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


def kafka_users(
    cluster: str = DEFAULT_CLUSTER, prefix: str = DEFAULT_PREFIX, app_id: str = "parallax-streams"
) -> list[dict[str, Any]]:
    """A `KafkaUser` with a password (SCRAM-SHA-512) for each of `USERS`. Topics are the operator's, so no user may create them.

    >>> [user["metadata"]["name"] for user in kafka_users()][:2]
    ['parallax-streams', 'parallax-producer']
    """
    found = []
    for name, who in USERS:
        acls = strimzi_acls(grants(who, prefix, app_id, group=name if "consumer" in who else None))
        spec = {"authentication": {"type": "scram-sha-512"}, "authorization": {"type": "simple", "acls": acls}}
        found.append(_resource("KafkaUser", name, cluster, spec))
    return found


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
