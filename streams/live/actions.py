"""What changes something over HTTP: a task cancelled or sent again, a dead letter sent back; and the dead letter looked up first.

In: POST requests of callers with the power `operate` (see `access.py`), with a JSON body. Out: records on `controls`, on `tasks`
and on the topic a dead letter came from, acknowledged. One at a time a worker, each bounded in time. A body that is not declared
as JSON is refused: a form of a foreign page can send anything else without asking first.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from schemas.codec import pack, validate
from schemas.messages import Control
from schemas.times import format_time
from schemas.topics import BY_NAME, full_name
from streams.answers import error_answer, json_answer
from streams.broker.access import AccessDenied
from streams.broker.client import ReadStalled, Record, TopicMissing, catalog, send_keyed
from streams.broker.dlq_reader import look_up, replaying, summary
from streams.client.errors import ClientError, InvalidTask, NotFound
from streams.client.feed import read_since
from streams.client.history import find_task, sent_again
from streams.client.times import since_ms
from streams.engine.faults import describe_error, unauthorized
from streams.live.access import CALLER
from streams.rules.broker.dead_letters import (
    MAX_DIGITS,
    NotReplayable,
    RecordId,
    build_replay,
    dlq_topic,
    read_dlq_headers,
    readable,
)
from streams.settings import Settings

log = structlog.get_logger(__name__)

ACTION_TIMEOUT_S = 30.0
MAX_WAITING = 8
MAX_ID = 256
MAX_REASON = 500
SINCE = "24h"
MAX_SHOWN = 64 * 1024
PLACE = "/api/v1/dead-letters/{topic:[^/]+}/{partition:[0-9]+}/{offset:[0-9]+}"

Work = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]


class Refused(Exception):
    """An answer other than 2xx: a status and a sentence."""

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
        """What a web application serves."""
        return [
            web.post("/api/v1/tasks/{id:[^/]+}/cancel", self._acting(self._cancel)),
            web.post("/api/v1/tasks/{id:[^/]+}/retry", self._acting(self._retry)),
            web.get(PLACE, self._bounded(self._show), allow_head=False),
            web.post(PLACE + "/replay", self._acting(self._replay)),
        ]

    def _acting(self, work: Work) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A route that changes something: its body is a JSON object, and what was done is logged."""

        async def check(request: web.Request, _: dict[str, Any]) -> web.Response:
            if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
                raise Refused(403, "pages of other sites may not act here")
            if request.content_type != "application/json":
                raise Refused(415, "send a JSON object with Content-Type: application/json")
            answer = await work(request, await _body(request))
            caller = request.get(CALLER)
            log.info("asked over HTTP and done", path=request.path, user=None if caller is None else caller.user)
            return answer

        return self._bounded(check)

    def _bounded(self, work: Work) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if self._waiting >= MAX_WAITING:
                return error_answer(503, f"{self._waiting} requests wait already; one goes on at a time")
            self._waiting += 1
            try:
                async with self._one, asyncio.timeout(ACTION_TIMEOUT_S):
                    return await work(request, {})
            except Refused as refused:
                return error_answer(refused.status, str(refused))
            except NotFound as error:
                return error_answer(404, str(error))
            except TimeoutError:
                return error_answer(504, f"not done within {ACTION_TIMEOUT_S:g} s; look back less far, with since")
            except (KafkaError, AccessDenied, TopicMissing, ReadStalled, ClientError, OSError) as error:
                return _away(error)
            finally:
                self._waiting -= 1

        return handle

    async def _cancel(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """Every worker reads the request; the owner ends the task, and the result says whether it came in time."""
        task_id = _task_id(request.match_info["id"])
        reason = body.get("reason", "cancelled over HTTP")
        if not isinstance(reason, str) or len(reason) > MAX_REASON:
            raise Refused(400, f"reason: must be text of at most {MAX_REASON} characters")
        control = validate(Control, {"type": "cancel", "taskId": task_id, "reason": reason})
        await send_keyed(self._settings, "controls", [(task_id.encode(), pack(control.wire()))])
        return json_answer({"taskId": task_id, "asked": True}, 202)

    async def _retry(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """`id`: the new one. A request that is repeated with the same new id makes one task: the id is answered once."""
        task_id = _task_id(request.match_info["id"])
        new_id = _task_id(body.get("id", uuid.uuid4().hex), "id")
        if new_id == task_id:
            raise Refused(400, "id: must be another than the task's: an id is answered once")
        again = sent_again(await find_task(self._settings, task_id, _since(body)), new_id)
        await send_keyed(self._settings, "tasks", [(again.key, again.value)])
        return json_answer({"taskId": new_id, "retryOf": task_id}, 201)

    async def _show(self, request: web.Request, _: dict[str, Any]) -> web.Response:
        """The value only to callers who may act on it: a rejected registration may hold a secret."""
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
                raise NotReplayable(f"topic {built.topic}, where it came from, is none that takes letters back")
        except NotReplayable as error:
            raise Refused(409, f"{place}: {error}") from None
        async with replaying(self._settings) as replayer:
            await replayer.send(place, built)
            [(_, _, failure)] = await replayer.settle()
        if failure is not None:
            raise failure
        return json_answer({"place": str(place), "to": built.topic, "count": built.count})

    async def _dead_letter(self, request: web.Request, since: str) -> Record:
        """The letter at a place of a dead-letter topic, or the newest of the record that was at this place of its origin.

        Raises `Refused`.
        """
        topic, prefix = request.match_info["topic"], self._settings.topic_prefix
        numbers = request.match_info["partition"], request.match_info["offset"]
        if max(map(len, numbers)) > MAX_DIGITS:
            raise Refused(404, "there is no such partition or offset")
        partition, offset = map(int, numbers)
        name = dlq_topic(topic, prefix)
        short = name.removeprefix(f"dlq.{prefix}")
        if short not in BY_NAME or not BY_NAME[short].dead_letters:
            raise Refused(404, f"{topic}: no topic of this installation has such dead letters")
        if topic == name:
            async with aclosing(look_up(self._settings, [RecordId(name, partition, offset)])) as found:
                async for _, record in found:
                    if record is not None:
                        return record
            raise Refused(404, f"{name}/{partition}/{offset}: there is no dead letter")
        origin = f"{full_name(short, prefix)}/{partition}/{offset}"
        newest = None
        async with aclosing(read_since(self._settings, f"dlq.{short}", _since_ms(since))) as records:
            async for one in records:
                headers = tuple((key, value) for key, value in one.headers or ())
                if read_dlq_headers(headers).origin == origin:
                    newest = Record(one.topic, one.partition, one.offset, one.timestamp, one.key, one.value, headers)
        if newest is None:
            raise Refused(
                404, f"{origin}: no dead letter of it since {format_time(_since_ms(since))}; give an earlier since"
            )
        return newest


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read() or b"{}")
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    return body


def _task_id(value: Any, name: str = "the task's id") -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise Refused(400, f"{name}: must be 1 to {MAX_ID} characters")
    return value


def _since(given: Any) -> str:
    since = given.get("since", SINCE)
    if not isinstance(since, str):
        raise Refused(400, 'since: must be a duration or a time, as text such as "24h"')
    _since_ms(since)
    return since


def _since_ms(since: str) -> int:
    try:
        return since_ms(since, round(time.time() * 1000))
    except InvalidTask as error:
        raise Refused(400, str(error)) from None


def _origins(prefix: str) -> set[str]:
    """A letter's headers are another's word: it goes back to topics whose records can become dead letters, and to no other."""
    return {full_name(name, prefix) for name, topic in BY_NAME.items() if topic.dead_letters}


def _away(error: Exception) -> web.Response:
    """What Kafka refuses the worker's user is no fault of a moment: the remedy is a right."""
    if isinstance(error, AccessDenied) or unauthorized(error) is not None:
        said = str(error) if isinstance(error, AccessDenied) else describe_error(error)
        return error_answer(
            403, f"{said} (`operator`: a worker that acts for people needs these rights beside its own)"
        )
    ours = isinstance(error, (TopicMissing, ReadStalled, ClientError))
    return error_answer(503, str(error) if ours else describe_error(error))
