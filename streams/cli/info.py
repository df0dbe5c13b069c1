"""`parallax version`, `config` and `docs`: the version, the settings in force, the published contracts. No broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli.options import USAGE, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import document, json_text, line, rows_as, say, yaml_text
from streams.cli.topics import Partitions, Replication

docs_app = typer.Typer(help="The published contracts.", rich_markup_mode=None)
MASK = "********"


def version(bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    number = installed("parallax-streams")
    if output in (None, Format.text):
        line(f"parallax-streams {number}")
    else:
        document({"name": "parallax-streams", "version": number}, output or Format.json)


def config(bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None) -> None:
    """Print the settings in force and their origins.

    Flag > environment PARALLAX_* > parallax.toml > default. Durations are in milliseconds; secrets are masked.
    """
    from streams.settings import known_names, load_with_origins

    settings, given = load_with_origins({"bootstrap_servers": bootstrap_servers, "topic_prefix": topic_prefix})
    rows: list[dict[str, Any]] = []
    for path in known_names():
        value: Any = settings
        for part in path.split("."):
            value = getattr(value, part)
        origin = given[path].name if path in given else "default"
        rows.append({"setting": path, "value": _plain(value), "from": origin})
    rows_as(output or Format.text, rows, ("setting", "value", "from"))


def _plain(value: Any) -> Any:
    from pydantic import SecretStr

    if isinstance(value, SecretStr):
        return MASK
    return list(value) if isinstance(value, tuple) else value


@docs_app.callback()
def docs() -> None:
    """The published contracts."""


@docs_app.command("schemas")
def schemas(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MESSAGE]...")] = None,
    write: Annotated[Path | None, typer.Option(metavar="DIR", help="write one file a message into DIR instead")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """The JSON Schema of every message, or of those named (Task, Result, ...), by message name."""
    from schemas.contract import PUBLISHED, documents, file_name, schema

    by_name = {model.__name__: model for model in PUBLISHED}
    wrong = [name for name in names or () if name not in by_name]
    if wrong:
        raise CommandError(f"docs schemas: unknown message {wrong[0]}; there are {', '.join(by_name)}", USAGE)
    chosen = [by_name[name] for name in names] if names else list(PUBLISHED)
    if write is None:
        document(
            {model.__name__: schema(model) for model in chosen}, Format.jsonl if output is Format.jsonl else Format.json
        )
        return
    write.mkdir(parents=True, exist_ok=True)
    contents = documents()
    for model in chosen:
        (write / file_name(model)).write_bytes(contents[file_name(model)])
    say(f"wrote {len(chosen)} schemas to {write}")


@docs_app.command("asyncapi")
def asyncapi(
    partitions: Partitions = None,
    replication_factor: Replication = None,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="write it to FILE instead")] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Print the public topics as an AsyncAPI 3.1 document from your application's point of view: YAML, or JSON with -o
    json.

    `send` is what you write, `receive` what you read. Servers and names are those of the settings in force; no broker
    is asked.
    """
    from schemas.asyncapi import Cluster
    from schemas.asyncapi import document as contract
    from schemas.topics import DEFAULT_PARTITIONS

    settings = settings_from(bootstrap_servers, topic_prefix)
    cluster = Cluster(
        servers=tuple(server.strip() for server in settings.bootstrap_servers.split(",") if server.strip()),
        security_protocol=settings.kafka.security_protocol,
        sasl_mechanism=settings.kafka.sasl_mechanism,
        partitions=partitions or DEFAULT_PARTITIONS,
        replicas=replication_factor,
    )
    whole = contract(settings.topic_prefix, cluster)
    text = yaml_text(whole) if output in (None, Format.text) else json_text(whole, output)
    if write is None:
        line(text)
        return
    write.parent.mkdir(parents=True, exist_ok=True)
    write.write_text(text + "\n", "utf-8")
    say(f"wrote {write}")
