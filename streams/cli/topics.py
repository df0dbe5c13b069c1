"""`parallax topics apply|ls`: the topics of the table, created or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import (
    FAILED,
    TIMED_OUT,
    CommandError,
    Format,
    OutputFormat,
    Prefix,
    Servers,
    duration_ms,
    settings_from,
)
from streams.cli.output import rows_as, say
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.broker.topics_admin import TopicState
    from streams.settings import Settings

app = typer.Typer(help="Create and check the topics.", rich_markup_mode=None)

Partitions = Annotated[
    int | None, typer.Option(min=1, max=10_000, metavar="N", help="of tasks and the topics aligned with it; 8 when new")
]
Replication = Annotated[
    int | None, typer.Option(min=1, max=100, metavar="N", help="copies of each partition; default: the broker's")
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TOPIC.CONFIG=VALUE", help="a setting of new topics (*: of all); repeatable"),
]
LeftOut = Annotated[
    list[str] | None,
    typer.Option("--leave-out", metavar="CONFIG", help="leave a setting of new topics to the cluster; repeatable"),
]


@app.command("apply")
def apply(
    partitions: Partitions = None,
    replication_factor: Replication = None,
    overrides: Overrides = None,
    left_out: LeftOut = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Create missing topics; safe to repeat. Adds partitions if more are asked for, never removes any.

    Settings that the cluster refuses are adapted, and reported.
    """
    from streams.rules.broker.topic_plan import wanted
    from streams.rules.broker.topic_settings import SettingError, parse_overrides

    settings = settings_from(bootstrap_servers, topic_prefix)
    full = [topic.name for topic in wanted(settings.topic_prefix)]
    names = {name.replace(settings.topic_prefix, "", 1): name for name in full} | {name: name for name in full}
    try:
        chosen = parse_overrides(overrides or [], names)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from None
    run(settings, _apply(settings, partitions, replication_factor, chosen, left_out or [], output or Format.text))


async def _apply(
    settings: Settings,
    partitions: int | None,
    replication: int | None,
    overrides: dict[str, dict[str, str]],
    left_out: list[str],
    form: Format,
) -> None:
    from streams.broker.topics_admin import apply as apply_topics

    changes = await apply_topics(settings, partitions, replication, overrides=overrides, left_out=left_out)
    documents: list[dict[str, Any]] = []
    for change in changes:
        row: dict[str, Any] = {"topic": change.name, "action": change.action, "partitions": change.partitions}
        if change.adapted:
            row["adapted"] = {name: {"wanted": want, "used": used} for name, (want, used) in change.adapted.items()}
        documents.append(row)
    rows_as(form, documents, ("topic", "action", "partitions"))
    for change in changes:
        for name, (want, used) in change.adapted.items():
            took = "the cluster's default" if used is None else used
            say(f"parallax: {change.name}: the cluster does not take {name}={want}; adapted to {took}")


@app.command("grow")
def grow(
    partitions: Annotated[
        int,
        typer.Option(
            "--partitions", min=1, max=10_000, metavar="M", help="the new number; a multiple of the present one"
        ),
    ],
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="how long to wait for the workers; 0s: not at all")
    ] = "180s",
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Add partitions while workers run. Answered ids, limits, circuits, delayed tasks and plans under way move with
    them.

    Grows `tasks` and the topics that must have as many partitions, then waits until the workers have opened them. M
    must be a multiple of the present number. Safe to repeat, also after an interruption. Exit 124 if the workers need
    longer than the timeout.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    timeout_s = 0.0 if timeout in ("0", "0s") else duration_ms(timeout, "--timeout") / 1000
    run(settings, _grow(settings, partitions, timeout_s, output or Format.text))


async def _grow(settings: Settings, partitions: int, timeout_s: float, form: Format) -> None:
    from aiokafka.errors import GroupAuthorizationFailedError

    from streams.broker.topic_growth import grow as grow_topics
    from streams.broker.topic_growth import taken_up

    changes = await grow_topics(settings, partitions)
    documents = [{"topic": change.name, "action": change.action, "partitions": change.partitions} for change in changes]
    rows_as(form, documents, ("topic", "action", "partitions"))
    if not timeout_s:
        return
    say("parallax: waiting for the workers to open the partitions")
    try:
        groups = await taken_up(settings, partitions, timeout_s)
    except GroupAuthorizationFailedError:
        say("parallax: this user may not read the workers' groups; see: parallax workers ls")
        return
    for group in groups:
        if not group.members:
            say(f"parallax: no worker with the role {group.role} runs; the next one will open the partitions")
        else:
            say(f"parallax: {group.role}: {min(group.opened, partitions)} of {partitions} partitions opened")
    if late := [group.role for group in groups if group.members and group.opened < partitions]:
        raise CommandError(
            f"the partitions were added, but not all are opened by {', '.join(late)} after {timeout_s:g} s; see the workers' "
            "logs, and run this again to check again", TIMED_OUT,
        )  # fmt: skip


@app.command("ls")
def ls(
    partitions: Partitions = None,
    replication_factor: Replication = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Compare the broker's topics with the table (and with the numbers given). Exit 1 if any is missing or too
    small.
    """
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _ls(settings, partitions, replication_factor, output or Format.text))


async def _ls(settings: Settings, partitions: int | None, replication: int | None, form: Format) -> None:
    from streams.broker.topics_admin import describe
    from streams.rules.broker.topic_plan import wanted

    fixed = {topic.name: topic.partitions for topic in wanted(settings.topic_prefix)}
    documents = []
    for state in await describe(settings):
        problem = _problem(state, fixed[state.name] or partitions, replication)
        documents.append(_row(state, problem))
    rows_as(form, documents, ("topic", "partitions", "replication", "state", "differs"))
    bad = [row["topic"] for row in documents if row["state"] != "ok"]
    if bad:
        say(
            f"parallax: {len(bad)} of {len(documents)} topics differ from what they must be; "
            "correct them with: parallax topics apply"
        )
        raise typer.Exit(FAILED)


def _problem(state: TopicState, partitions: int | None, replication: int | None) -> str | None:
    if state.partitions is None:
        return "missing"
    if partitions is not None and state.partitions < partitions:
        return f"has fewer than {partitions} partitions"
    if replication is not None and (state.replication or 0) < replication:
        return f"has fewer than {replication} copies"
    return None


def _row(state: TopicState, problem: str | None) -> dict[str, Any]:
    # Settings that differ are shown but are no fault: an operator may have tuned them.
    differs = [f"{name}={have} (table: {want})" for name, (want, have) in state.differences.items()]
    return {
        "topic": state.name,
        "partitions": state.partitions,
        "replication": state.replication,
        "state": problem or "ok",
        "differs": differs,
    }
