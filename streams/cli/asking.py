"""Asks workers over HTTP: where they are, and one request to many of them.

In: addresses typed with --web, else those that the members of the consumer groups publish, and the web address of the
settings. Out: JSON. A worker that does not answer is reported with the reason and fails no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import USAGE, CommandError

if TYPE_CHECKING:
    from streams.settings import Settings

GROUP_TIMEOUT_S = 5.0
ASK_TIMEOUT_S = 5.0
AT_ONCE = 20

Web = Annotated[
    list[str] | None,
    typer.Option(
        "--web",
        metavar="URL",
        help="a worker's web address; repeatable. Default: those found through Kafka, and that of the settings",
    ),
]


def checked_urls(given: Sequence[str] | None) -> list[str]:
    """The typed addresses, without trailing slashes. Raises `CommandError`."""
    from urllib.parse import urlsplit

    found = []
    for text in given or ():
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise CommandError(f"--web: must be http://HOST:PORT, is {text!r}", USAGE)
        found.append(text.rstrip("/"))
    return list(dict.fromkeys(found))


async def worker_urls(settings: Settings, given: Sequence[str]) -> list[str]:
    """The typed addresses; without any, those that Kafka lists and the address of the settings."""
    if given:
        return list(given)
    own = [own_url(settings)] if settings.web_port else []
    return list(dict.fromkeys([*await published(settings), *own]))


def own_url(settings: Settings) -> str:
    """The address of a worker with these settings. Another cluster's worker may use that port: see `stranger`."""
    host = settings.web_host
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "[::]") else host  # noqa: S104 - recognised, not bound
    return f"http://[{host}]:{settings.web_port}" if ":" in host else f"http://{host}:{settings.web_port}"


def stranger(settings: Settings, worker: dict[str, Any]) -> str:
    """Why a worker found at a guessed address does not belong to this app; "" if it may."""
    if (app := worker.get("appId", settings.app_id)) != settings.app_id:
        return f"is a worker of the app {app!r}; name it with --web to ask it"
    if (prefix := worker.get("topicPrefix", settings.topic_prefix)) != settings.topic_prefix:
        return f"is a worker of the topics {prefix}*; name it with --web to ask it"
    theirs = worker.get("bootstrapServers", settings.bootstrap_servers)
    if not _brokers(theirs) & _brokers(settings.bootstrap_servers):
        return f"is a worker of the brokers {theirs}; name it with --web to ask it"
    return ""


def _brokers(servers: str) -> set[str]:
    return {one.strip().replace("localhost:", "127.0.0.1:") for one in servers.split(",")}


async def published(settings: Settings) -> list[str]:
    """Addresses that members of the plan coordinators' group publish; none if the broker does not describe groups."""
    from aiokafka.errors import KafkaError

    from schemas.access import role_group
    from streams.broker.kafka import client_options
    from streams.engine.addresses import looked_up

    group = role_group(settings.app_id, "plans", settings.topic_prefix)
    try:
        found = await looked_up(client_options(settings), group, GROUP_TIMEOUT_S)
    except (KafkaError, TimeoutError, OSError, ValueError, NotImplementedError):
        return []
    return sorted(set(found.values()))


async def ask_each(settings: Settings, urls: Sequence[str], path: str) -> list[tuple[str, Any, str]]:
    """For each address in order: the address, its JSON (None without one, or for a 404), and the reason. Raises
    `CommandError`: no token.
    """
    import httpx

    from agents_io.errors import Unsupported
    from streams.tokens import authorization, token_to_show

    try:
        headers = authorization(token_to_show(settings))
    except Unsupported as error:
        raise CommandError(error.message) from None
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(client: httpx.AsyncClient, url: str) -> tuple[str, Any, str]:
        async with gate:
            try:
                answer = await client.get(f"{url}{path}", headers=headers)
                body = answer.json()
            except httpx.HTTPError as error:
                return url, None, str(error) or type(error).__name__
            except ValueError:
                return url, None, f"answers {answer.status_code} without JSON: it is not a worker"
        if answer.status_code != 200:
            reason = str(body.get("error", answer.status_code)) if isinstance(body, dict) else str(answer.status_code)
            hint = "; set web_auth.token (PARALLAX_WEB_AUTH__TOKEN=env:NAME)" if answer.status_code == 401 else ""
            return url, None, f"{answer.status_code}: {reason}{hint}"
        return url, body, ""

    async with httpx.AsyncClient(timeout=ASK_TIMEOUT_S, follow_redirects=False) as client:
        return list(await asyncio.gather(*(one(client, url) for url in urls)))
