"""Statistics over HTTP, at any worker of the role: it asks the owners and combines their parts.

In: GET requests under `/api/v1`. Out: JSON. The owners' addresses come with the group's assignment. While partitions
move, recover or do not reply, and when parts overlap, the answer is a 503 "recovering", never an uncertain number.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiohttp import web

from agents_io.errors import Unsupported
from agents_io.secret_refs import Secret
from schemas.messages import Interval
from schemas.times import parse_time
from streams.answers import error_answer, handed_on, json_answer
from streams.rules.windows.windows import INTERVALS
from streams.statistics.child import Statistics, StatsProcess
from streams.tokens import authorization

if TYPE_CHECKING:
    from streams.statistics.processor import StatsProcessor
    from streams.statistics.query import Question

ASK_TIMEOUT_S = 2.0
ASK_ALL_TIMEOUT_S = 15.0
"""Where no agent is named: thousands of series take seconds, in slices."""
MOST_AGENTS = 20
INTERNAL = "/internal/v2/stats"
Parts = list[Mapping[str, Any]]


class QueryRefused(Exception):
    """No answer: the HTTP status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _recovering(why: str) -> QueryRefused:
    return QueryRefused(503, f"recovering: {why}")


class StatsApi:
    """The routes. `statistics` returns the worker's statistics, None without them. `token`: sent to other workers."""

    def __init__(self, statistics: Callable[[], Statistics | None], token: Secret | None = None) -> None:
        self._statistics = statistics
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    def routes(self) -> list[web.RouteDef]:
        """The routes for the web application."""
        return [
            web.get("/api/v1/agents/{id:[^/]+}/stats", self._guarded(self._stats)),
            web.get("/api/v1/agents/{id:[^/]+}/windows", self._guarded(self._windows)),
            web.get("/api/v1/agents/{id:[^/]+}/calibration", self._guarded(self._calibration)),
            web.get("/api/v1/patterns/{name:[^/]+}/stats", self._guarded(self._pattern)),
            web.get("/api/v1/compare", self._guarded(self._compare)),
            web.get("/api/v1/anomalies", self._guarded(self._anomalies)),
            web.get(INTERNAL, self._guarded(self._part)),
        ]

    async def close(self) -> None:
        """Close the connections to other workers."""
        if self._session is not None:
            await self._session.close()

    def _guarded(self, answer: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            statistics = self._statistics()
            if isinstance(statistics, StatsProcess):
                status, body = await statistics.answer(request.path_qs)
                return handed_on(status, body)
            try:
                return json_answer(await answer(request))
            except QueryRefused as refused:
                return error_answer(refused.status, str(refused))

        return handle

    # Answers

    async def _stats(self, request: web.Request) -> dict[str, Any]:
        from streams.statistics.query import stats_of

        agent_id = request.match_info["id"]
        found = await stats_of(agent_id, await self._gather(_question(request, (agent_id,))))
        if found is None:
            raise QueryRefused(404, f"agent {agent_id!r} has no execution in that range")
        return found

    async def _windows(self, request: web.Request) -> list[dict[str, Any]]:
        from streams.statistics.query import windows_of

        interval = _interval(request.query.get("interval", "minute"))
        return windows_of(await self._gather(_question(request, (request.match_info["id"],), interval)))

    async def _calibration(self, request: web.Request) -> dict[str, Any]:
        agent_id = request.match_info["id"]
        found = (await self._stats(request))["calibration"]
        if found is None:
            raise QueryRefused(404, f"agent {agent_id!r} has no known outcome; report some with feedback data points")
        return {"agentId": agent_id, **found}

    async def _pattern(self, request: web.Request) -> dict[str, Any]:
        from dataclasses import replace

        from streams.statistics.query import stats_of

        name = request.match_info["name"]
        found = await stats_of(None, await self._gather(replace(_question(request, ()), pattern=name)))
        if found is None:
            raise QueryRefused(404, f"pattern {name!r} has no execution in that range")
        return {"patternName": name, **found}

    async def _compare(self, request: web.Request) -> list[dict[str, Any]]:
        from streams.statistics.query import stats_of

        agents = tuple(dict.fromkeys(name for name in request.query.get("agents", "").split(",") if name))
        if not 1 <= len(agents) <= MOST_AGENTS:
            raise QueryRefused(400, f"agents: name 1 to {MOST_AGENTS}, with commas between")
        parts = await self._gather(_question(request, agents))
        return [await stats_of(agent, parts) or {"agentId": agent, "totalExecutions": 0} for agent in agents]

    async def _anomalies(self, request: web.Request) -> list[dict[str, Any]]:
        state = request.query.get("state", "firing")
        if state not in ("firing", "pending"):
            raise QueryRefused(400, "state: firing or pending; what has ended is on the topic anomalies")
        parts = await self._gather(None)
        rows = [row for one in parts for row in one["alarms"] if row["state"] == state]
        return sorted(rows, key=lambda row: (row["agentId"], row["patternName"] or "", row["type"]))

    # The parts

    async def _part(self, request: web.Request) -> Mapping[str, Any]:
        """What this worker's own partitions have, for other workers."""
        from streams.statistics.query import Question

        try:
            asked = orjson.loads(base64.urlsafe_b64decode(request.query.get("q", "")))
            question = None if asked is None else Question.from_json(asked)
        except (ValueError, TypeError, KeyError) as error:
            raise QueryRefused(400, f"q: {error}") from error
        return await self._own(self._processor(), question)

    def _processor(self) -> StatsProcessor:
        statistics = self._statistics()
        if statistics is None or isinstance(statistics, StatsProcess):
            raise QueryRefused(503, "this worker has no statistics role, or they have not started; ask one that has")
        if statistics.processor is None or not statistics.ready:
            raise _recovering("statistics are starting here")
        return statistics.processor

    async def _own(self, processor: StatsProcessor, question: Question | None) -> Mapping[str, Any]:
        from streams.statistics.processor import NotReady
        from streams.statistics.query import TooMuch

        try:
            return await (processor.firing() if question is None else processor.part(question))
        except NotReady as error:
            raise _recovering(str(error)) from error
        except TooMuch as error:
            raise QueryRefused(400, str(error)) from error

    async def _gather(self, question: Question | None) -> Parts:
        """Every owner's part; together they cover each partition once. `question` None: the alarms."""
        from streams.statistics.query import complete

        processor = self._processor()
        own = await self._own(processor, question)
        mine = set(own["partitions"])
        others = {url for number, url in processor.owners().items() if number not in mine}
        parts = [own, *await asyncio.gather(*(self._ask(url, question) for url in sorted(others)))]
        if not complete(parts, processor.partition_count):
            raise _recovering("partitions are moving between workers")
        return parts

    async def _ask(self, url: str, question: Question | None) -> Mapping[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        timeout_s = ASK_TIMEOUT_S if question is None or question.agents else ASK_ALL_TIMEOUT_S
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=ASK_TIMEOUT_S)
        asked = base64.urlsafe_b64encode(orjson.dumps(None if question is None else question.to_json())).decode()
        try:
            async with self._session.get(
                f"{url}{INTERNAL}",
                params={"q": asked},
                timeout=timeout,
                headers=authorization(self._token),
                allow_redirects=False,
            ) as response:
                body = orjson.loads(await response.read())
                if response.status == 400:
                    raise QueryRefused(400, str(body.get("error")))
                if response.status != 200:
                    raise _recovering(f"the worker at {url} answers {response.status}: {body.get('error')}")
                found: Mapping[str, Any] = body
                return found
        except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError, Unsupported) as error:
            raise _recovering(f"the worker at {url} did not answer ({error!r})") from error


def _question(request: web.Request, agents: tuple[str, ...], interval: Interval | None = None) -> Question:
    from streams.statistics.query import FOREVER, Question

    begin, end = _time(request, "from", 0), _time(request, "to", FOREVER)
    if begin >= end:
        raise QueryRefused(400, "from: must be before to")
    return Question(agents, request.query.get("patternName"), begin, end, interval)


def _time(request: web.Request, name: str, default: int) -> int:
    """RFC 3339, or epoch milliseconds."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        return parse_time(int(text) if text.isdigit() else text)
    except ValueError as error:
        raise QueryRefused(400, f"{name}: {error}") from error


def _interval(text: str) -> Interval:
    for interval in INTERVALS:
        if text == interval:
            return interval
    raise QueryRefused(400, f"interval: must be one of {', '.join(INTERVALS)}")
