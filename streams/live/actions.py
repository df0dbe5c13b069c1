"""Actions over HTTP: cancel tasks and plans, retry tasks, replay dead letters; and read dead letters.

In: POST requests of callers with the power `operate` (see `access.py`), with a JSON body. Out: acknowledged records on
`controls`, on `tasks` and on the topic a dead letter came from. One at a time a worker, each bounded in time. A body
that is not declared as JSON is refused: a form on a foreign page can send anything else without a preflight request.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from schemas.codec import pack, validate
from schemas.exact_json import loads
from schemas.messages import Control
from schemas.topics import BY_NAME, full_name
from streams.answers import error_answer, json_answer
from streams.broker.access import AccessDenied
from streams.broker.client import TopicMissing, catalog, send_keyed
from streams.broker.dlq_reader import replaying, summary
from streams.broker.topic_feed import ReadStalled
from streams.client.errors import ClientError, InvalidTask, NotFound
from streams.client.history import find_task, sent_again
from streams.client.times import since_ms
from streams.engine.faults import describe_error, unauthorized
from streams.live import dead_letters
from streams.live.access import CALLER
from streams.rules.broker.dead_letters import NotReplayable, RecordId, build_replay, readable
from streams.settings import Settings

log = structlog.get_logger(__name__)

ACTION_TIMEOUT_S = 30.0
MAX_WAITING = 8
MAX_ID = 256
MAX_REASON = 500
MAX_LISTED = 200
"""Dead letters in one answer."""
SINCE = "24h"
MAX_SHOWN = 64 * 1024
PLACE = "/api/v1/dead-letters/{topic:[^/]+}/{partition:[0-9]+}/{offset:[0-9]+}"

Work = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]


class ActionRefused(Exception):
    """A response other than 2xx: a status and a sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Actions:
    """The routes of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._one = asyncio.Lock()
        self._waiting = 0

    def routes(self) -> list[web.RouteDef]:
        """The routes for the web application."""
        return [
            web.post("/api/v1/tasks/{id:[^/]+}/cancel", self._acting(self._cancel)),
            web.post("/api/v1/tasks/{id:[^/]+}/retry", self._acting(self._retry)),
            web.post("/api/v1/plans/{id:[^/]+}/cancel", self._acting(self._cancel_plan)),
            web.get("/api/v1/dead-letters", self._bounded(self._list), allow_head=False),
            web.get(PLACE, self._bounded(self._show), allow_head=False),
            web.post(PLACE + "/replay", self._acting(self._replay)),
        ]

    def _acting(self, work: Work) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Wraps a route that changes something: its body must be a JSON object, and the action is logged."""

        async def check(request: web.Request, _: dict[str, Any]) -> web.Response:
            if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
                raise ActionRefused(403, "requests from pages of other sites are refused here")
            if request.content_type != "application/json":
                raise ActionRefused(415, "send a JSON object with Content-Type: application/json")
            answer = await work(request, await _body(request))
            caller = request.get(CALLER)
            log.info("action done over HTTP", path=request.path, user=None if caller is None else caller.user)
            return answer

        return self._bounded(check)

    def _bounded(self, work: Work) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if self._waiting >= MAX_WAITING:
                return error_answer(503, f"{self._waiting} requests wait already; one runs at a time")
            self._waiting += 1
            try:
                async with self._one, asyncio.timeout(ACTION_TIMEOUT_S):
                    return await work(request, {})
            except ActionRefused as refused:
                return error_answer(refused.status, str(refused))
            except NotFound as error:
                return error_answer(404, str(error))
            except TimeoutError:
                return error_answer(504, f"not done within {ACTION_TIMEOUT_S:g} s; search a shorter time with since")
            except (KafkaError, AccessDenied, TopicMissing, ClientError, OSError) as error:
                return _away(error)
            finally:
                self._waiting -= 1

        return handle

    async def _cancel(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Cancel a task. Every worker reads the request; the owner ends the task, and the result shows whether it came
        in time.
        """
        return await self._ask_to_cancel("taskId", _id(request.match_info["id"]), body)

    async def _cancel_plan(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Cancel a plan: its steps that have not ended are cancelled."""
        return await self._ask_to_cancel("planId", _id(request.match_info["id"], "the plan's id"), body)

    async def _ask_to_cancel(self, field: str, name: str, body: dict[str, Any]) -> web.Response:
        reason = body.get("reason", "cancelled over HTTP")
        if not isinstance(reason, str) or len(reason) > MAX_REASON:
            raise ActionRefused(400, f"reason: must be text of at most {MAX_REASON} characters")
        control = validate(Control, {"type": "cancel", field: name, "reason": reason})
        await send_keyed(self._settings, "controls", [(name.encode(), pack(control.wire()))])
        return json_answer({field: name, "asked": True}, 202)

    async def _retry(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """`id`: the new one. A repeated request with the same new id makes one task: the id is answered once."""
        task_id = _id(request.match_info["id"])
        new_id = _id(body.get("id", uuid.uuid4().hex), "id")
        if new_id == task_id:
            raise ActionRefused(400, "id: must be another than the task's: an id is answered once")
        task = await find_task(self._settings, task_id, _since(body))
        try:
            again = sent_again(task, new_id, round(time.time() * 1000))
        except InvalidTask as error:
            raise ActionRefused(409, str(error)) from None
        await send_keyed(self._settings, "tasks", [(again.key, again.value)])
        return json_answer({"taskId": new_id, "retryOf": task_id}, 201)

    async def _list(self, request: web.Request, _: dict[str, Any]) -> web.Response:
        """The newest dead letters, without their bytes."""
        most = _most(request.query.get("max", str(MAX_LISTED)))
        listed = await dead_letters.newest(self._settings, _since_ms(_since(request.query)), most)
        return json_answer([summary(dead_letter) for dead_letter in listed])

    async def _show(self, request: web.Request, _: dict[str, Any]) -> web.Response:
        """One dead letter. Its value only for callers with the power operate: a rejected registration may hold a
        secret.
        """
        record = await self._dead_letter(request, _since(request.query))
        shown = summary(record)
        caller = request.get(CALLER)
        if caller is not None and caller.may("operate"):
            kind, value = readable(record.value, record.headers)
            small = len(record.value or b"") <= MAX_SHOWN
            shown |= {"valueIs": kind, "value": value if small else None}
        return json_answer(shown)

    async def _replay(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        record = await self._dead_letter(request, _since(body))
        place = RecordId(record.topic, record.partition, record.offset)
        try:
            built = build_replay(record.key, record.value, record.headers, self._settings.topic_prefix)
            if built.topic not in _origins(self._settings.topic_prefix) or built.topic not in await catalog(
                self._settings
            ):
                raise NotReplayable(f"topic {built.topic}, where it came from, accepts no replayed dead letters")
        except NotReplayable as error:
            raise ActionRefused(409, f"{place}: {error}") from None
        async with replaying(self._settings) as replayer:
            await replayer.send(place, built)
            [(_, _, failure)] = await replayer.settle()
        if failure is not None:
            raise failure
        return json_answer({"place": str(place), "to": built.topic, "count": built.count})

    async def _dead_letter(self, request: web.Request, since: str) -> ConsumerRecord:
        topic, partition, offset = (request.match_info[name] for name in ("topic", "partition", "offset"))
        return await dead_letters.find(self._settings, topic, partition, offset, _since_ms(since))


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = loads(await request.read() or b"{}")
    except ValueError as error:
        raise ActionRefused(400, f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ActionRefused(400, "the body must be a JSON object")
    return body


def _id(value: Any, name: str = "the task's id") -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise ActionRefused(400, f"{name}: must be 1 to {MAX_ID} characters")
    return value


def _most(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 0 < int(text) <= MAX_LISTED):
        raise ActionRefused(400, f"max: must be a number from 1 to {MAX_LISTED}")
    return int(text)


def _since(given: Any) -> str:
    since = given.get("since", SINCE)
    if not isinstance(since, str):
        raise ActionRefused(400, 'since: must be a duration or a time, as text such as "24h"')
    _since_ms(since)
    return since


def _since_ms(since: str) -> int:
    try:
        return since_ms(since, round(time.time() * 1000))
    except InvalidTask as error:
        raise ActionRefused(400, str(error)) from None


def _origins(prefix: str) -> set[str]:
    """Topics that dead letters may be sent back to: those whose records can become dead letters. A dead letter's
    headers are not trusted.
    """
    return {full_name(name, prefix) for name, topic in BY_NAME.items() if topic.dead_letters}


def _away(error: Exception) -> web.Response:
    """The status for Kafka's refusal: if the worker's user lacks a right, waiting does not help."""
    if isinstance(error, AccessDenied) or unauthorized(error) is not None:
        reason = str(error) if isinstance(error, AccessDenied) else describe_error(error)
        return error_answer(
            403, f"{reason} (`operator`: a worker that acts for people needs these rights beside its own)"
        )
    ours = isinstance(error, (TopicMissing, ReadStalled, ClientError))
    return error_answer(503, str(error) if ours else describe_error(error))
