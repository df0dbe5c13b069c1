"""Any worker answers for a plan: its owner is asked, and what is not certain is a 503, never a 404."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiokafka.errors import KafkaConnectionError
from yarl import URL

from agents_io.secret_refs import Secret
from schemas.messages import SecretRef
from schemas.partitioning import owner_partition
from streams.engine.addresses import Addresses
from streams.live.access import WebAccess
from streams.plans import api
from streams.plans.api import PlansApi
from streams.plans.handler import PlanHandler
from streams.plans.role import Coordination
from streams.settings_parts import WebAuthSettings

COUNT = 4
ODD = "a/b #1?&%"
IDS = ("p0", "p1", "p2", "p3", "p4", "p5", ODD)


class Known(PlanHandler):
    """A handler that only knows what it is told."""

    def __init__(self, plans: dict[str, Any]) -> None:
        self.plans = plans

    def view(self, plan_id: str) -> Any:
        """As the handler's."""
        return self.plans.get(plan_id)


class FakeAddresses(Addresses):
    """The table of addresses that the leader sent."""

    def __init__(self) -> None:
        super().__init__("")
        self.owners: dict[int, str] = {}

    def owner(self, number: int) -> str | None:
        return self.owners.get(number)


class Worker:
    """An API over a role whose engine has certain partitions open."""

    def __init__(self, plans: dict[str, Any], group: str = "app-plans", token: Secret | None = None) -> None:
        self.addresses = FakeAddresses()
        self.assigned = asyncio.Event()
        self.assigned.set()
        self.processors: dict[int, Any] = {}
        self.handler = Known(plans)
        self.has_read = True
        """Whether the plans that were there before have all been read."""
        config = SimpleNamespace(group=group, options={})
        engine = SimpleNamespace(
            processors=self.processors, assigned=self.assigned, config=config, handler=self._handler_of
        )
        self.role: Coordination | None = Coordination(cast("Any", engine), lambda: COUNT, self.addresses)
        self.api = PlansApi(lambda: self.role, token)
        self.access = WebAccess(WebAuthSettings())
        self.url = ""

    def _handler_of(self, number: int) -> Known | None:
        return self.handler if number in self.processors else None

    def owns(self, *numbers: int) -> None:
        """These partitions are open, and no others."""
        self.processors.clear()
        self.processors.update(
            {
                number: SimpleNamespace(handler=self.handler, closed=False, caught_up=lambda source: self.has_read)
                for number in numbers
            }
        )

    def told(self, *tables: tuple[str, list[int]]) -> None:
        """What the leader said."""
        self.addresses.owners = {number: url for url, numbers in tables for number in numbers}

    async def ask(self, plan_id: str) -> tuple[int, Any]:
        """Status and body."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/api/v1/plans/{_quoted(plan_id)}") as r:
            assert (r.headers.get("Retry-After") is not None) == (r.status == 503)
            return r.status, await r.json()


def _quoted(plan_id: str) -> URL:
    return URL(quote(plan_id, safe=""), encoded=True)


class Coordinator:
    """What the group's coordinator says when asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.says: dict[int, str] | Exception = {}

    async def __call__(self, options: Any, group: str, timeout_s: float) -> dict[int, str]:
        """As `looked_up`."""
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture(autouse=True)
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    """One that knows nothing until it is told."""
    one = Coordinator()
    monkeypatch.setattr(api, "looked_up", one)
    return one


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Worker], Awaitable[None]]]:
    """Puts workers on free ports."""
    runners, apis = [], []

    async def up(worker: Worker) -> None:
        app = web.Application(middlewares=[worker.access.middleware()])
        app.add_routes(worker.api.routes())
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        worker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        runners.append(runner)
        apis.append(worker.api)

    yield up
    for made in apis:
        await made.close()
    for runner in runners:
        await runner.cleanup()


def shown(plan_id: str) -> dict[str, Any]:
    """A plan under way."""
    return {"planId": plan_id, "status": "running"}


async def pair(serve: Any) -> tuple[Worker, Worker]:
    """Two workers with half of the partitions each; both know of every plan only what lies in their partitions."""
    one, two = Worker({name: shown(name) for name in IDS}), Worker({name: shown(name) for name in IDS})
    two.handler.plans["p5"] = one.handler.plans["p5"] = b'{"planId":"p5","status":"success"}'
    for worker in (one, two):
        await serve(worker)
    one.owns(0, 1)
    two.owns(2, 3)
    for worker in (one, two):
        worker.told((one.url, [0, 1]), (two.url, [2, 3]))
    return one, two


async def test_both_workers_show_every_plan(serve: Any) -> None:
    """Under way, or its result as it was written; whatever stands in its id."""
    one, two = await pair(serve)
    assert {owner_partition(name, COUNT) for name in IDS} == {0, 2}, "each must own some"
    for worker in (one, two):
        for name in IDS:
            status = "success" if name == "p5" else "running"
            assert await worker.ask(name) == (200, {"planId": name, "status": status})


async def test_a_404_comes_from_the_owner_alone(serve: Any) -> None:
    """The other's word is asked for, not made up."""
    one, two = await pair(serve)
    for name in IDS:
        owner = one if owner_partition(name, COUNT) < 2 else two
        del owner.handler.plans[name]
        for worker in (one, two):
            status, body = await worker.ask(name)
            assert (status, "is not under way" in body["error"]) == (404, True)


async def test_an_owner_denies_no_plan_before_it_has_read_what_was_there_before(serve: Any) -> None:
    """A worker that was killed may have shown a plan of which it had committed nothing."""
    one, two = await pair(serve)
    known = dict(two.handler.plans)
    two.handler.plans.clear()
    two.has_read = False
    for worker in (one, two):
        await _unsure(worker, "still reads its plans", (2, 3))
    two.handler.plans.update(known)
    for name in IDS:
        assert (await one.ask(name))[0] == 200
    two.handler.plans.clear()
    two.has_read = True
    assert {(await one.ask(name))[0] for name in IDS if owner_partition(name, COUNT) > 1} == {404}


async def test_a_worker_shows_its_token_to_the_owner(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which asks for it: without one nothing is certain, whatever the owner knows."""
    monkeypatch.setenv("VIEW", "view-token-0123456789")
    _, owner = await pair(serve)
    guarded = Worker(owner.handler.plans)
    guarded.access = WebAccess(WebAuthSettings.model_validate({"view_tokens": "env:VIEW"}))
    await serve(guarded)
    guarded.owns(2, 3)
    name = next(name for name in IDS if owner_partition(name, COUNT) == 2)
    for variable, status in (("VIEW", 200), (None, 503), ("HOME", 503), ("NO_SUCH_VARIABLE", 503)):
        asking = Worker({}, token=None if variable is None else Secret(SecretRef(env=variable)))
        await serve(asking)
        asking.owns(0, 1)
        asking.told((guarded.url, [2, 3]))
        assert (await asking.ask(name))[0] == status, variable


async def _unsure(worker: Worker, reason: str, numbers: tuple[int, ...]) -> None:
    for name in IDS:
        if owner_partition(name, COUNT) in numbers:
            status, body = await worker.ask(name)
            assert (status, reason in body["error"]) == (503, True), body


async def test_what_is_not_certain_is_a_503_with_its_reason(serve: Any) -> None:
    """Moving, opening, gone, somebody else at that address, somebody who is silent, no role here."""
    one, two = await pair(serve)
    two.owns(3)
    await _unsure(one, "is not open at this worker", (2,))
    await _unsure(two, "is not open at this worker", (2,))  # told that it is its own: it asks itself, and no further
    one.told((one.url, [0, 1]))
    await _unsure(one, "published no address", (2, 3))
    one.told(("http://127.0.0.1:1", [2, 3]))
    await _unsure(one, "did not answer", (2, 3))
    stranger = Worker({}, group="other-plans")
    await serve(stranger)
    stranger.owns(0, 1, 2, 3)
    one.told((stranger.url, [2, 3]))
    await _unsure(one, "is not open at this worker", (2, 3))
    one.assigned.clear()
    await _unsure(one, "partitions are moving", (2, 3))
    one.role = None
    await _unsure(one, "no plans role", (0, 1, 2, 3))


async def test_other_pages_at_an_owners_address_are_no_answers(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may have gone to anything: its 404 and its JSON count for nothing, its silence is waited for a while only."""
    one, _ = await pair(serve)
    monkeypatch.setattr(api, "ASK_TIMEOUT_S", 0.3)
    for answer in ("404", "json", "list", "partition", "silence"):
        other = Worker({})
        other.api.routes = lambda answer=answer: [web.get(api.INTERNAL, _page(answer))]  # type: ignore[method-assign, misc]
        await serve(other)
        one.told((other.url, [2, 3]))
        await _unsure(one, "recovering: the worker at", (2, 3))


def _page(answer: str) -> Any:
    async def page(request: web.Request) -> web.Response:
        if answer == "silence":
            await asyncio.sleep(1)
        body = {"json": '{"plan":null}', "list": "[]", "partition": '{"group":"app-plans","partition":9,"plan":null}'}
        return web.Response(status=404 if answer == "404" else 200, text=body.get(answer, "not here"))

    return page


async def test_a_worker_that_came_back_elsewhere_is_found_through_the_coordinator(
    serve: Any, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept its name, so no new generation told its new address; and so when an older leader told none at all."""
    one, two = await pair(serve)
    coordinator.says = {2: two.url, 3: two.url}
    for table in (("http://127.0.0.1:1", [2, 3]), ("http://127.0.0.1:1", [])):
        one.told(table)
        for name in IDS:
            assert (await one.ask(name))[0] == 200
    assert coordinator.asked == 1, "seldom"
    two.owns()
    await _unsure(one, "is not open at this worker", (2,))


async def test_a_coordinator_that_does_not_say_makes_no_answer_certain(
    serve: Any, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that knows no owner; what it said before is not used any more."""
    monkeypatch.setattr(api, "LOOK_PAUSE_S", 0.0)
    one, two = await pair(serve)
    coordinator.says = {2: two.url, 3: two.url}
    one.told(("http://127.0.0.1:1", []))
    for name in IDS:
        assert (await one.ask(name))[0] == 200
    words: list[dict[int, str] | Exception] = [
        KafkaConnectionError("away"),
        TimeoutError(),
        ValueError("not decoded"),
        {},
    ]
    for word in words:
        before, coordinator.says = coordinator.asked, word
        await _unsure(one, "published no address", (2,))
        assert coordinator.asked > before
