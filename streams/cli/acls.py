"""`parallax docs acls`: the rights on Kafka that a worker, or a user of the topics, needs. No broker is asked.

In: who, and the settings in force (prefix, app id, roles). Out: commands for kafka-acls.sh, what a Strimzi KafkaUser takes, or
one row a right. It changes nothing anywhere.
"""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli.options import USAGE, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import json_text, line, say, yaml_text

DEFAULT_USER = "parallax"


def acls(
    who: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WHO]...",
            help="dispatch, plans, schedules, stats (roles of a worker; default: those of the settings), "
            "producer, consumer, operator, admin, agent",
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="the user who gets them; default: kafka.sasl_username")
    ] = None,
    app_id: Annotated[str | None, typer.Option(metavar="NAME", help="the workers' --app-id")] = None,
    group: Annotated[
        str | None, typer.Option(metavar="BEGIN", help="prefix of the groups of consumers and agents")
    ] = None,
    agent_topic: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC", help="full name of a topic that an agent reads; repeatable")
    ] = None,
    strimzi: Annotated[bool, typer.Option("--strimzi", help="in the form of a Strimzi KafkaUser")] = False,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Print the ACLs a Kafka user needs, no more and no less, as commands for kafka-acls.sh.

    With -o json or jsonl, one right a row. An administrator applies them; parallax topics apply runs as `admin`.
    """
    from schemas.access import EVERYBODY, grants, kafka_acls, strimzi_acls

    settings = settings_from(bootstrap_servers, topic_prefix, app_id=app_id)
    asked = list(who or settings.roles)
    chosen = [known for known in EVERYBODY if known in asked]
    if len(chosen) < len(set(asked)):
        wrong = next(name for name in asked if name not in EVERYBODY)
        raise CommandError(f"docs acls: unknown: {wrong}; there are {', '.join(EVERYBODY)}", USAGE)
    if "agent" in chosen and not agent_topic:
        raise CommandError("docs acls: agent needs --agent-topic, the topic it reads", USAGE)
    needed = grants(chosen, settings.topic_prefix, settings.app_id, agent_topics=agent_topic or (), group=group)
    if strimzi:
        line(yaml_text({"acls": strimzi_acls(needed)}).rstrip())
    elif output in (None, Format.text):
        name = user or settings.kafka.sasl_username or DEFAULT_USER
        line("\n".join(kafka_acls(name, needed, settings.bootstrap_servers)))
        if "consumer" in chosen and group is None:
            say("consumers that join groups need Read on the groups too: --group PREFIX")
    else:
        rows = [
            {
                "resource": grant.resource,
                "name": grant.name,
                "pattern": "prefixed" if grant.prefixed else "literal",
                "operation": grant.operation,
            }
            for grant in needed
        ]
        line("\n".join(json_text(row, output) for row in rows) if output is Format.jsonl else json_text(rows, output))
