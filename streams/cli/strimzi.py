"""`parallax docs strimzi`: topics and users as resources for Strimzi's operators. Connects to no broker and no cluster.

In: the settings in force, the Kafka cluster's name, numbers. Out: YAML for `kubectl apply`, or files of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli.options import Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import json_text, line, say, yaml_text
from streams.cli.topics import Partitions, Replication


def strimzi(
    cluster: Annotated[str | None, typer.Option(metavar="NAME", help="the Kafka resource; default my-cluster")] = None,
    partitions: Partitions = None,
    replication_factor: Replication = None,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write topics.yaml and users.yaml into DIR instead")
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Print topics (three replicas each by default) and users as KafkaTopic and KafkaUser resources for Strimzi.

    The topics replace parallax topics apply; the users are workers, producers, consumers and operators. Names are those
    of the settings in force.
    """
    from schemas.strimzi import DEFAULT_CLUSTER, DEFAULT_REPLICAS, kafka_topics, kafka_users
    from schemas.topics import DEFAULT_PARTITIONS

    settings = settings_from(bootstrap_servers, topic_prefix)
    name, copies = cluster or DEFAULT_CLUSTER, replication_factor or DEFAULT_REPLICAS
    topics = kafka_topics(name, settings.topic_prefix, partitions or DEFAULT_PARTITIONS, copies)
    users = kafka_users(name, settings.topic_prefix, settings.app_id)
    if write is None:
        found = topics + users
        line(pages(found) if output in (None, Format.text) else json_text(found, output))
        return
    write.mkdir(parents=True, exist_ok=True)
    for file, resources in (("topics.yaml", topics), ("users.yaml", users)):
        (write / file).write_text(f"{MADE}{pages(resources)}\n", "utf-8")
    say(f"wrote {len(topics)} topics and {len(users)} users to {write}")


MADE = "# Generated from schemas/: make schemas, or parallax docs strimzi with your prefix, numbers and cluster.\n"


def pages(resources: list[dict[str, Any]]) -> str:
    """YAML, one document each, without the final newline."""
    return "\n".join(f"---\n{yaml_text(resource)}" for resource in resources)
