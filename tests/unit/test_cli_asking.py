"""Where the command line finds workers, and what it makes of their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from streams.cli import asking, workers
from streams.cli.options import CommandError
from streams.settings import Settings

Serve = Callable[[Any], Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(answer)`: the address of a server that answers every path with it."""
    runners = []

    async def start(answer: Any) -> str:
        async def handle(request: web.Request) -> web.Response:
            found = answer(request) if callable(answer) else answer
            return found if isinstance(found, web.Response) else web.json_response(found)

        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runners[-1].addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def worker(name: str, url: str = "", *peers: str) -> dict[str, Any]:
    return {"runId": name, "instanceId": name, "web": url, "peers": list(peers)}


async def test_addresses_that_were_typed_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those of the group come first, and that of the settings last, each once."""

    async def published(settings: Settings) -> list[str]:
        return ["http://10.0.0.7:8080", "http://127.0.0.1:8080"]

    monkeypatch.setattr(asking, "published", published)
    assert await asking.worker_urls(Settings(), ["http://h:1"]) == ["http://h:1"]
    assert await asking.worker_urls(Settings(), []) == ["http://10.0.0.7:8080", "http://127.0.0.1:8080"]
    everywhere = Settings(web_host="0.0.0.0", web_port=9)
    assert (await asking.worker_urls(everywhere, []))[-1] == "http://127.0.0.1:9"
    assert (await asking.worker_urls(Settings(web_host="::1"), []))[-1] == "http://[::1]:8080"


@pytest.mark.parametrize("text", ["worker", "ftp://h", "http://", "http://h?x=1", "//h:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--web: must be http://HOST:PORT"):
        asking.checked_urls([text])


def test_an_address_typed_twice_is_one() -> None:
    assert asking.checked_urls(["http://h:1/", "http://h:1"]) == ["http://h:1"]


async def test_peers_are_asked_too_and_a_worker_at_two_addresses_is_one(serve: Serve) -> None:
    """One that is away, and one that is no worker, are named with the reason; peers that name each other end."""
    second = await serve(lambda request: worker("w2", str(request.url.origin())))
    odd = await serve(lambda _: web.Response(text="<html>"))
    first = await serve(lambda request: worker("w1", str(request.url.origin()), second, odd, "http://127.0.0.1:9"))
    again = await serve(worker("w1", first, first))
    found = await workers.found_workers(Settings(), [first, again])
    assert [row["runId"] for row in found.rows] == ["w1", "w2"]
    assert found.urls == [first, second]
    assert found.silent.keys() == {odd, "http://127.0.0.1:9"}
    assert "it is not a worker" in found.silent[odd]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"appId": "other"}, "is a worker of the app 'other'"),
        ({"topicPrefix": "other."}, "is a worker of the topics other.*"),
        ({"bootstrapServers": "localhost:29092"}, "is a worker of the brokers localhost:29092"),
        (
            {
                "appId": Settings().app_id,
                "topicPrefix": Settings().topic_prefix,
                "bootstrapServers": "b1:9, 127.0.0.1:9092",
            },
            "",
        ),
        ({}, ""),
    ],
)
async def test_a_worker_of_another_cluster_on_the_guessed_port_is_left_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], reason: str
) -> None:
    """Two clusters on one machine: the second one's worker has another port. An address that was typed is always asked."""

    async def nowhere(settings: Settings) -> list[str]:
        return []

    monkeypatch.setattr(asking, "published", nowhere)
    url = await serve(lambda request: worker("w1", str(request.url.origin())) | said)
    settings = Settings(web_port=int(url.rpartition(":")[2]))
    found = await workers.found_workers(settings, [])
    assert bool(found.rows) is not bool(reason)
    assert found.silent.get(url, "").startswith(reason)
    assert len((await workers.found_workers(settings, [url])).rows) == 1


async def test_the_token_of_the_settings_is_shown_and_a_refusal_says_how_to_set_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guarded(request: web.Request) -> web.Response:
        right = request.headers.get("Authorization") == "Bearer secret-secret-123"
        return web.json_response(
            {"error": "asks for a token"} if not right else {"ok": 1}, status=200 if right else 401
        )

    url = await serve(guarded)
    [(_, body, reason)] = await asking.ask_each(Settings(), [url], "/x")
    assert body is None
    assert "401: asks for a token; set web_auth.token" in reason
    monkeypatch.setenv("TOKEN", "secret-secret-123")
    settings = Settings.model_validate({"web_auth": {"token": "env:TOKEN"}})
    assert (await asking.ask_each(settings, [url], "/x"))[0][1] == {"ok": 1}
    unset = Settings.model_validate({"web_auth": {"token": "env:NOT_THERE"}})
    with pytest.raises(CommandError, match="NOT_THERE"):
        await asking.ask_each(unset, [url], "/x")
