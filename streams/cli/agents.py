"""`parallax agents add|ls|rm|probe|circuit`: the registry, which is the compacted topic `agents`.

In: flags or AgentRegistration JSON lines. Out: the registrations written or found. `add` detects the protocol at an
address, `probe` checks the health of registered agents (`agents_asked.py`); neither gives an agent a task.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents_io.protocols.metadata_keys import help_text
from streams.cli.agents_asked import ask_all, check_tool, completed
from streams.cli.listings import read_listing, report_refused
from streams.cli.options import (
    FAILED,
    NOT_FOUND,
    USAGE,
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
    from collections.abc import Mapping

    from schemas.messages import AgentStanding
    from streams.rules.agents.listing import AgentListing
    from streams.settings import Settings

app = typer.Typer(help="Register, list and remove agents.", rich_markup_mode=None)

STANDING = ("circuit", "health")
COLUMNS = ("id", "protocol", "endpoint", "capabilities", "maxRequests", "window", "maxConcurrency")


@app.command("add", epilog=help_text())
def add(
    agent_id: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    endpoint: Annotated[str | None, typer.Argument(metavar="ENDPOINT", help="http://host:port/path")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AgentRegistration JSON lines; - reads stdin")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="P", help="http, grpc, ...; derived from the endpoint's scheme when missing")
    ] = None,
    capability: Annotated[list[str] | None, typer.Option(metavar="C", help="what it can do; may be repeated")] = None,
    max_requests: Annotated[
        int | None, typer.Option(metavar="N", help="at most N calls in any --window; default 100")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="DURATION", help="window of --max-requests, such as 60s")
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="at most N calls at once; default 10")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="such as model=m or tool=t; may be repeated")
    ] = None,
    auth_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="the worker's environment variable with the token")
    ] = None,
    auth_header: Annotated[
        str | None,
        typer.Option(
            metavar="HEADER",
            help="with --auth-env: send the token as it is in this header, such as X-Api-Key, not as a bearer token",
        ),
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option(
            metavar="FROM",
            help="where the confidence comes from: stated, path=EXPRESSION, constant=NUMBER, logprobs (openai), "
            "agreement or agreement=SAMPLES (asked several times), judge=AGENT (another agent rates the answer)",
        ),
    ] = None,
    discover: Annotated[
        bool | None, typer.Option(help="detect the protocol at ENDPOINT; done for http(s) without --protocol")
    ] = None,
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Register an agent, or many with --file. A second registration of an id replaces the first."""
    limits = {
        "maxRequests": max_requests,
        "windowMs": None if window is None else duration_ms(window, "--window"),
        "maxConcurrency": max_concurrency,
    }
    flags = {
        "protocol": protocol,
        "capabilities": capability or None,
        "limits": {name: value for name, value in limits.items() if value is not None} or None,
        "metadata": _metadata(metadata) or None,
        "auth": auth_of(auth_env, auth_header),
        "confidence": None if confidence is None else confidence_of(confidence),
    }
    if file is not None:
        if agent_id is not None or discover is not None or any(value is not None for value in flags.values()):
            raise CommandError(
                "agents add: --file stands alone, without ID, ENDPOINT and the options of one agent", USAGE
            )
        found = _from_file(file)
    else:
        if agent_id is None or endpoint is None:
            raise CommandError("agents add: needs ID and ENDPOINT, or --file FILE", USAGE)
        given = {"id": agent_id, "endpoint": endpoint} | {k: v for k, v in flags.items() if v is not None}
        by_itself = protocol is None and endpoint.lower().startswith(("http://", "https://"))
        asks = by_itself if discover is None else discover
        _validated(given, can_work=not asks)
        found = [_registration(completed(given) if asks else given)]
        if protocol == "mcp" and discover is None:
            check_tool(given)
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _add(settings, found, output or Format.text))


def _registration(data: Any, where: str = "agents add") -> dict[str, Any]:
    """The registration, checked and completed. Raises `CommandError`."""
    _validated(data, where)
    return dict(data)


def _validated(data: Any, where: str = "agents add", can_work: bool = True) -> None:
    from agents_io.errors import Unsupported
    from agents_io.protocols.registration_check import check_registration
    from schemas.codec import Rejected, validate
    from schemas.messages import AgentRegistration

    try:
        agent = validate(AgentRegistration, data)
        if can_work:
            check_registration(agent)
    except Rejected as error:
        raise CommandError(f"{where}: {error.reason}", USAGE) from None
    except Unsupported as error:
        raise CommandError(f"{where}: {error.message}", USAGE) from None


def auth_of(env: str | None, header: str | None) -> dict[str, Any] | None:
    if header is None:
        return None if env is None else {"env": env}
    if env is None:
        raise CommandError("--auth-header: needs --auth-env, which names the token", USAGE)
    return {"env": env, "scheme": "header", "header": header}


def confidence_of(text: str) -> dict[str, Any]:
    """An option such as `constant=0.8` in the form of a registration."""
    source, _, rest = text.partition("=")
    if source == "constant":
        try:
            return {"from": source, "value": float(rest)}
        except ValueError:
            raise CommandError(f"--confidence: constant wants a number, not {rest[:40]!r}", USAGE) from None
    if source == "agreement":
        try:
            return {"from": source} | ({"samples": int(rest)} if rest else {})
        except ValueError:
            raise CommandError(f"--confidence: agreement wants a number of samples, not {rest[:40]!r}", USAGE) from None
    return {"from": source} | ({"agent" if source == "judge" else "path": rest} if rest else {})


def _metadata(pairs: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs. A value has its key's type; an unknown key's is JSON if it parses, else text."""
    from agents_io.protocols.metadata_keys import read_value

    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise CommandError(f"--metadata: want NAME=VALUE, not {pair!r}", USAGE)
        try:
            found[name] = read_value(name, text)
        except ValueError as error:
            raise CommandError(f"--metadata: {error}", USAGE) from None
    return found


def _from_file(file: Path) -> list[dict[str, Any]]:
    from streams.cli.lines import numbered_json

    found = [_registration(data, f"{file}: line {number}") for number, data in numbered_json(file)]
    if not found:
        raise CommandError(f"{file}: no registration in it", USAGE)
    return found


async def _add(settings: Settings, found: list[dict[str, Any]], form: Format) -> None:
    from schemas.codec import dumps
    from streams.broker.client import send_keyed

    await send_keyed(settings, "agents", ((str(data["id"]).encode(), dumps(data)) for data in found))
    _print(found, form)
    if form is Format.text:
        say(f"registered {len(found)} agent{'s' if len(found) > 1 else ''}; next: parallax submit TASKS.jsonl --wait")


@app.command("ls")
def ls(bootstrap_servers: Servers = None, topic_prefix: Prefix = None, output: OutputFormat = None) -> None:
    """List the registered agents."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _ls(settings, output or Format.text))


async def _ls(settings: Settings, form: Format) -> None:
    from schemas.messages import AgentRegistration
    from streams.rules.agents.leases import is_ended

    found = await _registered(settings)
    registered = {key: data for key, data in found.items() if not is_ended(AgentRegistration.model_validate(data))}
    agent_statuses = await _agent_statuses(settings) if form is Format.text and registered else {}
    _print([registered[agent_id] for agent_id in sorted(registered)], form, agent_statuses)
    if not registered:
        say("no agent is registered; register one with: parallax agents add ID ENDPOINT")


async def _registered(settings: Settings) -> dict[str, dict[str, Any]]:
    """Agent id to its newest registration; what workers refuse is reported on stderr and left out."""
    listing = await _listing(settings)
    report_refused("agents", listing.refused)
    return listing.found


async def _listing(settings: Settings) -> AgentListing:
    from streams.rules.agents.listing import AgentListing

    return await read_listing(settings, "agents", AgentListing())


async def _agent_statuses(settings: Settings) -> dict[str, AgentStanding]:
    """The published status of each agent that was ever called or checked."""
    from schemas.codec import Rejected, decode
    from schemas.messages import AgentStanding
    from streams.broker.topic_feed import read_all

    found: dict[str, AgentStanding] = {}
    async for record in read_all(settings, "standings"):
        key = (record.key or b"").decode("utf-8", "replace")
        try:
            if record.value is None:
                found.pop(key, None)
            else:
                found[key] = decode(AgentStanding, record.value, record.headers)
        except Rejected as error:
            say(f"parallax: topic standings, offset {record.offset}, key {key!r}: {error.reason}")
    return found


def _print(
    registrations: list[dict[str, Any]], form: Format, agent_statuses: Mapping[str, AgentStanding] | None = None
) -> None:
    if form is not Format.text:
        rows_as(form, registrations, ())
        return
    from schemas.messages import AgentRegistration

    rows = []
    for data in registrations:
        agent = AgentRegistration.model_validate(data)
        limits = agent.limits
        row: dict[str, Any] = {"id": agent.id, "protocol": agent.transport, "endpoint": agent.endpoint}
        row["capabilities"] = agent.capabilities
        if limits is not None:
            row |= {
                "maxRequests": limits.max_requests,
                "window": f"{limits.window_ms / 1000:g}s",
                "maxConcurrency": limits.max_concurrency,
            }
        agent_status = (agent_statuses or {}).get(agent.id)
        if agent_status is not None:
            row |= {
                "circuit": agent_status.circuit,
                "health": "healthy" if agent_status.healthy else agent_status.reason,
            }
        rows.append(row)
    rows_as(form, rows, (*COLUMNS, *STANDING) if agent_statuses else COLUMNS)


@app.command("circuit")
def circuit(
    agent_id: Annotated[str, typer.Argument(metavar="ID")],
    mode: Annotated[str, typer.Argument(metavar="MODE", help="open, disabled, or auto: by the outcomes of its calls")],
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Open an agent's circuit by hand, disable it, or return it to automatic. Exit 4 if the agent is not registered."""
    if mode not in ("auto", "open", "disabled"):
        raise CommandError(f"agents circuit: MODE is auto, open or disabled, not {mode!r}", USAGE)
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _circuit(settings, agent_id, mode, output or Format.text))


async def _circuit(settings: Settings, agent_id: str, mode: str, form: Format) -> None:
    from schemas.codec import dumps
    from streams.broker.client import send_keyed

    data = (await _registered(settings)).get(agent_id)
    if data is None:
        raise CommandError(f"agents circuit: not registered: {agent_id}", NOT_FOUND)
    changed = data | {"breaker": (data.get("breaker") or {}) | {"mode": mode}}
    await send_keyed(settings, "agents", [(agent_id.encode(), dumps(changed))])
    rows_as(form, [{"id": agent_id, "mode": mode}], ("id", "mode"))


@app.command("rm")
def rm(
    agent_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Remove agents from the registry. Exit 4 if one is not registered (then none is removed)."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _rm(settings, agent_ids, output or Format.text))


async def _rm(settings: Settings, agent_ids: list[str], form: Format) -> None:
    from streams.broker.client import send_keyed

    listing = await _listing(settings)
    removals = {agent_id: listing.removal(agent_id) for agent_id in agent_ids}
    unknown = [agent_id for agent_id, keys in removals.items() if keys is None]
    if unknown:
        raise CommandError(f"agents rm: not registered: {', '.join(unknown)}", NOT_FOUND)
    await send_keyed(settings, "agents", ((key, None) for keys in removals.values() for key in keys or ()))
    rows_as(form, [{"id": agent_id, "removed": True} for agent_id in agent_ids], ("id", "removed"))


@app.command("probe")
def probe(
    agent_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]")] = None,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="how long to wait for each agent")] = "5s",
    bootstrap_servers: Servers = None,
    topic_prefix: Prefix = None,
    output: OutputFormat = None,
) -> None:
    """Check the health of agents from this machine. Exit 1 if one is unhealthy, 4 if one is not registered."""
    settings = settings_from(bootstrap_servers, topic_prefix)
    run(settings, _probe(settings, agent_ids or [], duration_ms(timeout, "--timeout") / 1000, output or Format.text))


async def _probe(settings: Settings, agent_ids: list[str], timeout_s: float, form: Format) -> None:
    registered = await _registered(settings)
    unknown = [agent_id for agent_id in agent_ids if agent_id not in registered]
    if unknown:
        raise CommandError(f"agents probe: not registered: {', '.join(unknown)}", NOT_FOUND)
    wanted = [registered[agent_id] for agent_id in agent_ids or sorted(registered)]
    rows = await ask_all(settings, wanted, timeout_s)
    rows_as(form, rows, ("id", "protocol", "endpoint", "health", "ms", "detail"))
    ill = [str(row["id"]) for row in rows if row["health"] == "unhealthy"]
    if ill:
        raise CommandError(f"agents probe: unhealthy: {', '.join(ill)}", FAILED)
