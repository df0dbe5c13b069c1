"""Plans over HTTP, at any worker of the role: it asks the owner of the plan's partition.

In: GET requests. Out: JSON. Only the owner of the partition answers that a plan is unknown. While the owner is unknown,
starts, reads earlier plans, or does not answer within `ASK_TIMEOUT_S`, the answer is a 503 with the reason, after at
most three such waits. A worker that is asked passes the request no further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from agents_io.errors import Unsupported
from agents_io.secret_refs import Secret
from schemas.exact_json import loads
from streams.answers import error_answer, json_answer
from streams.engine.addresses import looked_up
from streams.plans.role import Coordination
from streams.tokens import authorization

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 2.0
LOOK_PAUSE_S = 2.0
INTERNAL = "/internal/v1/plans"


class NotKnown(Exception):
    """No certain answer now; one line."""


class PlansApi:
    """The routes. `coordination` returns the worker's role `plans`, None without one. `token`: sent to other
    workers.
    """

    def __init__(self, coordination: Callable[[], Coordination | None], token: Secret | None = None) -> None:
        self._coordination = coordination
        self._token = token
        self._session: aiohttp.ClientSession | None = None
        self._looked_up: dict[int, str] = {}
        self._look_at = float("-inf")
        self._looking = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """The routes for the web application."""
        return [web.get("/api/v1/plans/{id:[^/]+}", self._plan), web.get(INTERNAL, self._part)]

    async def close(self) -> None:
        """Close the connections to other workers."""
        if self._session is not None:
            await self._session.close()

    async def _plan(self, request: web.Request) -> web.Response:
        """A plan under way, or the result of one that ended recently."""
        plan_id = request.match_info["id"]
        try:
            role = self._role()
            found = await self._ask(role, plan_id) if role.handler_of(plan_id) is None else _view(role, plan_id)
        except NotKnown as error:
            return error_answer(503, str(error))
        if found is None:
            hint = f"plan {plan_id!r} is not under way, and did not end lately; try: parallax plan {plan_id}"
            return error_answer(404, hint)
        return json_answer(orjson.Fragment(found) if isinstance(found, bytes) else found)

    async def _part(self, request: web.Request) -> web.Response:
        """The same for another worker: only for a partition that is open here. The answer names its group and
        partition.
        """
        plan_id, group = request.query.get("id", ""), request.query.get("group", "")
        try:
            role = self._role()
            if group != role.group or role.handler_of(plan_id) is None:
                raise NotKnown(f"the partition of plan {plan_id!r} is not open at this worker")
            found = _view(role, plan_id)
        except NotKnown as error:
            return error_answer(503, str(error))
        shown = orjson.Fragment(found) if isinstance(found, bytes) else found
        return json_answer({"group": role.group, "partition": role.number(plan_id), "plan": shown})

    def _role(self) -> Coordination:
        role = self._coordination()
        if role is None:
            raise NotKnown("this worker has no plans role, or it has not started; ask one that has")
        return role

    async def _ask(self, role: Coordination, plan_id: str) -> dict[str, Any] | None:
        """Ask the owner: at the address it published to the group, or else at the one the coordinator lists. Raises
        `NotKnown`.
        """
        number = role.number(plan_id)
        published = role.owner(number)
        try:
            if published is not None:
                return await self._ask_at(published, role, number, plan_id)
            raise NotKnown(f"recovering: partitions are moving, or the owner of {number} published no address")
        except NotKnown:
            now = (await self._look_up(role)).get(number)
            if now is None or now == published:
                raise
        return await self._ask_at(now, role, number, plan_id)

    async def _look_up(self, role: Coordination) -> dict[int, str]:
        """Ask the coordinator, at a limited rate for all requests together."""
        async with self._looking:
            clock = asyncio.get_running_loop()
            if clock.time() >= self._look_at:
                try:
                    self._looked_up = await looked_up(role.engine.config.options, role.group, ASK_TIMEOUT_S)
                except (KafkaError, TimeoutError, ValueError) as error:
                    log.info("the group's coordinator does not list the members", error=repr(error))
                    self._looked_up = {}
                self._look_at = clock.time() + LOOK_PAUSE_S
            return self._looked_up

    async def _ask_at(self, url: str, role: Coordination, number: int, plan_id: str) -> dict[str, Any] | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S))
        params = {"id": plan_id, "group": role.group}
        try:
            async with self._session.get(
                f"{url}{INTERNAL}", params=params, headers=authorization(self._token), allow_redirects=False
            ) as response:
                body = loads(await response.read())
                if response.status != 200:
                    raise NotKnown(f"recovering: the worker at {url} answers {response.status}: {body['error']}")
                # Another program may listen at the owner's address: its answer has other names.
                if (body["group"], body["partition"]) != (role.group, number):
                    raise NotKnown(f"recovering: the worker at {url} answers for another partition")
                found: dict[str, Any] | None = body["plan"]
                return found
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, Unsupported) as error:
            raise NotKnown(f"recovering: the worker at {url} did not answer ({error!r})") from error


def _view(role: Coordination, plan_id: str) -> dict[str, Any] | bytes | None:
    """The plan, from a partition that is open here; None: there is no such plan. Raises `NotKnown`."""
    found = role.view(plan_id)
    if found is None and not role.is_caught_up(plan_id):
        raise NotKnown(f"recovering: the partition of plan {plan_id!r} has just moved here and still reads its plans")
    return found
