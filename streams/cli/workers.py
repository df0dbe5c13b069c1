"""`parallax workers ls`: the workers of an app and their state.

In: their addresses (see `asking`). Out: a row a worker on stdout; those that do not answer are named on stderr. Each
worker names the others it knows, so one address is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from streams.cli.asking import Web, ask_each, checked_urls, own_url, stranger, worker_urls
from streams.cli.options import FAILED, CommandError, Format, OutputFormat, Prefix, Servers, settings_from
from streams.cli.output import rows_as, say
from streams.cli.running import run

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(help="List the workers.", rich_markup_mode=None)

COLUMNS = ("instanceId", "version", "roles", "ready", "partitions", "calling", "waiting", "web", "notes")
MAX_WORKERS = 1000


@app.command("ls")
def ls(
    web: Web = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """List the workers: name, version, roles, readiness, partitions, tasks being called and waiting, address.

    Workers with the role plans are found through Kafka, and each worker names those it knows; others need --web. Exit 1
    if no worker answers.
    """
    urls = checked_urls(web)
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _ls(settings, urls, output or Format.text))


async def _ls(settings: Settings, given: list[str], form: Format) -> None:
    found = await found_workers(settings, given)
    rows = found.rows
    for url, reason in found.silent.items():
        say(f"{url}: {reason}")
    if not rows:
        raise CommandError("no worker answers; start one with `parallax worker`, or name one with --web URL", FAILED)
    rows.sort(key=lambda row: (row["instanceId"] or "", row["web"]))
    rows_as(form, [_for_table(row) for row in rows] if form is Format.text else rows, COLUMNS)


class FoundWorkers(NamedTuple):
    """`rows`: what each worker reports; `urls`: their addresses; `silent`: workers left out, with the reason."""

    rows: list[dict[str, Any]]
    urls: list[str]
    silent: dict[str, str]


async def found_workers(settings: Settings, given: list[str]) -> FoundWorkers:
    """Each worker once, also those that others name. `given`: typed addresses; without any see `worker_urls`."""
    urls = await worker_urls(settings, given)
    guessed = None if given else own_url(settings)
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    silent: dict[str, str] = {}
    asked: set[str] = set()
    while ahead := [url for url in urls if url not in asked][:MAX_WORKERS]:
        asked |= set(ahead)
        for url, body, reason in await ask_each(settings, ahead, "/api/v1/worker"):
            if not isinstance(body, dict) or not isinstance(body.get("web"), str):
                silent[url] = reason or "answers, but is not a worker"
                continue
            if url == guessed and (why := stranger(settings, body)):
                silent[url] = why
                continue
            # It may answer at several addresses: it is one worker all the same.
            found.setdefault(body["runId"], (url, body | {"web": body["web"] or url}))
            urls = [*urls, *(peer for peer in body.get("peers", ()) if isinstance(peer, str))]
        if len(asked) > MAX_WORKERS:
            break
    return FoundWorkers([row for _, row in found.values()], [url for url, _ in found.values()], silent)


def _for_table(row: dict[str, Any]) -> dict[str, Any]:
    partitions = " ".join(f"{role} {_ranges(numbers)}" for role, numbers in row["partitions"].items() if numbers)
    tasks: dict[str, Any] = row["tasks"]
    return row | tasks | {"partitions": partitions, "notes": "; ".join(row["reasons"])}


def _ranges(numbers: list[int]) -> str:
    """Partition numbers as ranges.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
