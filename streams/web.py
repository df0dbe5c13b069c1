"""The worker's HTTP side: health, metrics, the query API and actions, on a loopback address by default.

In: requests. Out: JSON, and text for `/metrics`. It computes nothing: it shows what the engine and the tables hold, and
`live/actions.py` alone writes. Who may ask is decided before a route is reached: `live/guard.py` on loopback, `live/access.py`
everywhere.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from schemas.messages import AgentRegistration
from streams import metrics_page
from streams.agents.agent_statuses import AgentStatuses
from streams.agents.table import AgentTable
from streams.answers import error_answer, json_answer
from streams.broker.kafka import BrokerUnreachable, reach
from streams.dispatch.handler import handlers_of
from streams.engine.engine import Engine
from streams.engine.observed import observe
from streams.engine.partition_status import PartitionStatus, partition_statuses
from streams.grpc_server import PortTaken
from streams.live import page
from streams.live.access import CALLER, WebAccess
from streams.live.actions import Actions
from streams.live.api import LiveApi
from streams.live.guard import loopback_only
from streams.live.held_elsewhere import OtherWorkers
from streams.plans.api import PlansApi
from streams.plans.role import Coordination
from streams.rules.addresses import advertised
from streams.schedules.role import SchedulesRole
from streams.schema_registry import registry
from streams.settings import Settings
from streams.statistics.api import StatsApi
from streams.statistics.child import Statistics
from streams.tokens import token_to_show

BROKER_CHECK_S = 5.0
BROKER_TIMEOUT_S = 2.0


class WebServer:
    """One worker's pages. `engine`, `agents`, `standings`, `plans`, `schedules` and `stats` are set as they come up."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.engine: Engine | None = None
        self.agents: AgentTable | None = None
        self.agent_statuses: AgentStatuses | None = None
        self.plans: Coordination | None = None
        self.schedules: SchedulesRole | None = None
        self.stats: Statistics | None = None
        self.problems: Callable[[], list[str]] = list
        """What keeps a role from being ready though it runs, one line each."""
        self._settings = settings
        self._registry = registry
        self.dropped_events: dict[str, Callable[[], int]] = {}
        """Role -> progress events that could not be sent so far."""
        observe(
            registry,
            self._partition_statuses,
            self._roles_ready,
            self._log_changes,
            self.dropped_events,
            self._renewals,
            self._expired_records,
            self._retention_ms,
        )
        self._runner: web.AppRunner | None = None
        shown = token_to_show(settings)
        self._stats_api = StatsApi(lambda: self.stats, shown)
        self._plans_api = PlansApi(lambda: self.plans, shown)
        self._live = LiveApi(settings, self._explain_task, OtherWorkers(self._peers, shown))
        self._actions = Actions(settings)
        self._access = WebAccess(settings.web_auth)
        self._asked_at = float("-inf")
        self._answered = False
        self.url = ""
        self._run_id = uuid.uuid4().hex
        """Tells a worker that answers at two addresses from two workers."""

    async def start(self) -> None:
        """Listen. Raises `PortTaken`."""
        guards = [loopback_only(self._settings.web_host), self._access.middleware()]
        app = web.Application(client_max_size=64 * 1024, middlewares=guards)
        app.add_routes(
            [
                *page.routes(self._index),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/agents", self._agents),
                web.get("/api/v1/agents/{id:[^/]+}", self._agent),
                web.get("/api/v1/partitions", self._partitions),
                web.get("/api/v1/schedules", self._schedules),
                web.get("/api/v1/worker", self._worker),
                *self._plans_api.routes(),
                *self._stats_api.routes(),
                *self._live.routes(),
                *self._actions.routes(),
                *self._access.routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, port = self._settings.web_host, self._settings.web_port
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror or error}"
            raise PortTaken(
                f"web address {host}:{port} {what}; choose another with --web-port (0: a free one)"
            ) from error
        bound = self._runner.addresses[0]
        self.url = f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        await self._live.close()
        await self._stats_api.close()
        await self._plans_api.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def reachable(self) -> str:
        """The address other workers find this one at."""
        bound = self.url.removeprefix("http://")
        return f"http://{advertised(self._settings.web_advertise, bound, socket.gethostname())}"

    def _explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task waits for that this worker holds in memory; None if it holds none of that id."""
        for handler in () if self.engine is None else handlers_of(list(self.engine.processors.values())):
            found = handler.explain_task(task_id)
            if found is not None:
                return found
        return None if self.schedules is None else self.schedules.explain_task(task_id)

    async def _livez(self, request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        checks = self._roles_ready()
        checks["broker"] = await self._broker_answers()
        answer: dict[str, Any] = {"checks": checks}
        if reasons := self.problems():
            checks["topics"], answer["reasons"] = False, reasons
        ready = all(checks.values())
        # A probe without a token learns no more than yes or no.
        details = answer if CALLER in request else {}
        return json_answer({"ready": ready} | details, 200 if ready else 503)

    def _roles_ready(self) -> dict[str, bool]:
        """Of the roles that this worker was given."""
        up = {
            "dispatch": self.engine is not None and self.engine.ready,
            "plans": self.plans is not None and self.plans.engine.ready,
            "schedules": self.schedules is not None and self.schedules.engine.ready,
            "stats": self.stats is not None and self.stats.ready,
        }
        return {role: up[role] for role in up if role in self._settings.roles}

    async def _broker_answers(self) -> bool:
        """Asked at most every few seconds: a probe must not become a load."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at > BROKER_CHECK_S:
            self._asked_at = now
            try:
                await reach(self._settings, BROKER_TIMEOUT_S)
                self._answered = True
            except BrokerUnreachable:
                self._answered = False
        return self._answered

    async def _index(self, request: web.Request) -> web.Response:
        paths = {route.resource.canonical for route in request.app.router.routes() if route.resource is not None}
        found = {"bootstrapServers": self._settings.bootstrap_servers, "topicPrefix": self._settings.topic_prefix}
        return json_answer({"paths": sorted(paths), **found})

    async def _metrics(self, request: web.Request) -> web.Response:
        page = await metrics_page.written(self._registry)
        return web.Response(body=page, headers={"Content-Type": metrics_page.CONTENT_TYPE})

    async def _agents(self, request: web.Request) -> web.Response:
        agents = () if self.agents is None else self.agents.all()
        return json_answer([self._shown(agent) for agent in sorted(agents, key=lambda agent: agent.id)])

    def _shown(self, agent: AgentRegistration) -> dict[str, Any]:
        """The registration, and how the agent stands as far as that is known."""
        agent_status = None if self.agent_statuses is None else self.agent_statuses.get(agent.id)
        return agent.wire() if agent_status is None else agent.wire() | {"standing": agent_status.wire()}

    async def _agent(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["id"]
        agent = None if self.agents is None else self.agents.get(agent_id)
        if agent is None:
            return error_answer(404, f"agent {agent_id!r} is not registered")
        return json_answer(self._shown(agent))

    async def _schedules(self, request: web.Request) -> web.Response:
        """Of this worker's partitions: each with its next time."""
        return json_answer([] if self.schedules is None else self.schedules.rows())

    def _partition_statuses(self) -> Iterator[PartitionStatus]:
        """Of all roles."""
        stats = [] if self.stats is None else self.stats.partition_statuses()
        return chain(*map(partition_statuses, self.engines().values()), stats)

    async def _worker(self, request: web.Request) -> web.Response:
        """This worker: who it is, what it owns, how much it has to do, and the workers it knows of."""
        checks = self._roles_ready()
        reasons = [f"{role} is not ready" for role, up in checks.items() if not up] + self.problems()
        engines = self.engines()
        owned = {role: sorted(processor.number for processor in engines[role].opened) for role in engines}
        if self.stats is not None:
            owned["stats"] = sorted({status.partition for status in self.stats.partition_statuses()})
        taken = sum(status.in_flight for status in partition_statuses(self.engine))
        calling = (
            sum(handler.running() for handler in handlers_of(self.engine.opened)) if self.engine is not None else 0
        )
        return json_answer(
            {
                "instanceId": self._settings.instance_id,
                "runId": self._run_id,
                "appId": self._settings.app_id,
                "topicPrefix": self._settings.topic_prefix,
                "bootstrapServers": self._settings.bootstrap_servers,
                "version": version("parallax-streams"),
                "roles": list(self._settings.roles),
                "ready": not reasons,
                "reasons": reasons,
                "schemaRegistry": None if (schemas := registry()) is None else schemas.problem,
                "partitions": owned,
                "tasks": {"calling": calling, "waiting": max(0, taken - calling)},
                "web": self.reachable,
                "peers": sorted(self._peers()),
            }
        )

    def _peers(self) -> set[str]:
        """Where the other workers answer that coordinate plans: the group of coordinators knows their addresses."""
        return set() if self.plans is None else self.plans.workers() - {self.reachable}

    def engines(self) -> dict[str, Engine]:
        """By role, of those that are up."""
        found = {
            "dispatch": self.engine,
            "plans": None if self.plans is None else self.plans.engine,
            "schedules": None if self.schedules is None else self.schedules.engine,
        }
        return {role: engine for role, engine in found.items() if engine is not None}

    def _log_changes(self) -> int:
        return sum(engine.log_changes for engine in self.engines().values())

    def _renewals(self) -> dict[str, int]:
        return {role: engine.renewals for role, engine in self.engines().items()}

    def _expired_records(self) -> dict[str, int]:
        """Topic -> records that expired before they were worked on."""
        return {topic: n for engine in self.engines().values() for topic, n in engine.expired.by_topic.items()}

    def _retention_ms(self) -> dict[str, int]:
        """Topic -> how long it keeps records."""
        return {topic: ms for engine in self.engines().values() for topic, ms in engine.ages.retention_ms.items()}

    async def _partitions(self, request: web.Request) -> web.Response:
        rows = [
            {
                "topic": place.topic,
                "partition": place.partition,
                "committable": place.committable,
                "next": place.next,
                "inFlight": place.in_flight,
                "lag": place.lag,
                "oldestAge": place.oldest_ms,
                "expired": place.expired,
                "blocking": place.blocking(),
            }
            for place in self._partition_statuses()
        ]
        return json_answer(sorted(rows, key=lambda row: (row["topic"], row["partition"])))
