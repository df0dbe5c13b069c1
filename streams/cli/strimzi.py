"""`parallax docs strimzi`: the topics as resources for Strimzi's operators. No broker and no cluster is asked.

In: the settings in force, the Kafka cluster's name, numbers. Out: YAML for `kubectl apply`, or a file of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli.options import Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import json_text, line, say, yaml_text
from streams.cli.topics import Partitions, Replication


def strimzi(
    cluster: Annotated[
        str | None, typer.Option(metavar="NAME", help="the Kafka resource; default my-cluster", show_default=False)
    ] = None,
    partitions: Partitions = None,
    replication_factor: Replication = None,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write topics.yaml into DIR instead", show_default=False)
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """The topics as KafkaTopic resources of Strimzi's, with three copies each unless told otherwise.

    They take the place of parallax topics apply. Names are those of the settings in force.
    """
    from schemas.strimzi import DEFAULT_CLUSTER, DEFAULT_REPLICAS, kafka_topics
    from schemas.topics import DEFAULT_PARTITIONS

    settings = settings_from(bootstrap_servers, topic_prefix)
    found = kafka_topics(
        cluster or DEFAULT_CLUSTER,
        settings.topic_prefix,
        partitions or DEFAULT_PARTITIONS,
        replication_factor or DEFAULT_REPLICAS,
    )
    if write is None:
        line(pages(found) if output in (None, Format.text) else json_text(found, output))
        return
    write.mkdir(parents=True, exist_ok=True)
    (write / "topics.yaml").write_text(f"{MADE}{pages(found)}\n", "utf-8")
    say(f"wrote {len(found)} topics to {write / 'topics.yaml'}")


MADE = "# Generated from schemas/topics.py: make schemas, or parallax docs strimzi with your prefix, numbers and cluster.\n"


def pages(resources: list[dict[str, Any]]) -> str:
    """YAML, a page each, without the last line's end."""
    return "\n".join(f"---\n{yaml_text(resource)}" for resource in resources)
