"""The worker's HTTP server: health, metrics, the query API and actions, on a loopback address by default.

In: requests. Out: JSON, and text for `/metrics`. It computes nothing: it shows the state of the engine and the tables;
only `live/actions.py` writes. Access is checked before a route is reached: `live/guard.py` on loopback,
`live/access.py` everywhere.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from typing import Any, cast, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry

from schemas.messages import AgentRegistration
from streams import metrics_page
from streams.answers import error_answer, json_answer
from streams.broker.kafka import BrokerUnreachable, reach
from streams.dispatch.role import DispatchRole
from streams.engine.engine import Engine
from streams.engine.observed import observe
from streams.engine.partition_status import PartitionStatus
from streams.grpc_server import PortTaken
from streams.live import page
from streams.live.access import CALLER, WebAccess
from streams.live.actions import Actions
from streams.live.api import LiveApi
from streams.live.guard import loopback_only
from streams.live.held_elsewhere import OtherWorkers
from streams.plans.api import PlansApi
from streams.plans.role import Coordination, PlansRole
from streams.role import EngineRole, Role
from streams.rules.addresses import advertised
from streams.schedules.role import SchedulesRole
from streams.schema_registry import registry
from streams.settings import RoleName, Settings
from streams.statistics.api import StatsApi
from streams.statistics.child import Statistics
from streams.tokens import token_to_show

ROLES: tuple[RoleName, ...] = get_args(RoleName)
BROKER_CHECK_S = 5.0
BROKER_TIMEOUT_S = 2.0


class WebServer:
    """The HTTP server of one worker. A role is shown once it is added."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.roles: dict[RoleName, Role] = {}
        self.problems: Callable[[], list[str]] = list
        """Why a running role is not ready, one line each."""
        self._settings = settings
        self._registry = registry
        observe(registry, self._partition_statuses, self._roles_ready, self.engines, self._dropped_events)
        self._runner: web.AppRunner | None = None
        shown = token_to_show(settings)
        self._stats_api = StatsApi(self._statistics, shown)
        self._plans_api = PlansApi(self._coordination, shown)
        self._live = LiveApi(settings, self._explain_task, OtherWorkers(self._peers, shown))
        self._actions = Actions(settings)
        self._access = WebAccess(settings.web_auth)
        self._asked_at = float("-inf")
        self._answered = False
        self.url = ""
        self._run_id = uuid.uuid4().hex
        """Distinguishes one worker with two addresses from two workers."""

    def add(self, role: Role) -> None:
        """Add a role that was started."""
        self.roles[role.name] = role
        if isinstance(role, DispatchRole):
            self.problems = role.problems

    @property
    def _dispatch(self) -> DispatchRole | None:
        return cast("DispatchRole | None", self.roles.get("dispatch"))

    @property
    def _scheduler(self) -> SchedulesRole | None:
        return cast("SchedulesRole | None", self.roles.get("schedules"))

    def _coordination(self) -> Coordination | None:
        role = cast("PlansRole | None", self.roles.get("plans"))
        return None if role is None else role.coordination

    def _statistics(self) -> Statistics | None:
        return cast("Statistics | None", self.roles.get("stats"))

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
        """The address at which other workers find this one."""
        bound = self.url.removeprefix("http://")
        return f"http://{advertised(self._settings.web_advertise, bound, socket.gethostname())}"

    def _explain_task(self, task_id: str) -> dict[str, Any] | None:
        """What a task that this worker holds in memory waits for; None if it holds none with that id."""
        for role in (self._dispatch, self._scheduler):
            found = None if role is None else role.explain_task(task_id)
            if found is not None:
                return found
        return None

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
        wanted = (name for name in ROLES if name in self._settings.roles)
        return {name: name in self.roles and self.roles[name].ready for name in wanted}

    async def _broker_answers(self) -> bool:
        """Whether the broker answers, asked at most every few seconds: a probe must not become a load."""
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
        agents = () if self._dispatch is None else self._dispatch.agents.all()
        return json_answer([self._shown(agent) for agent in sorted(agents, key=lambda agent: agent.id)])

    def _shown(self, agent: AgentRegistration) -> dict[str, Any]:
        """The registration, with the agent's status as far as it is known."""
        agent_status = None if self._dispatch is None else self._dispatch.agent_statuses.get(agent.id)
        return agent.wire() if agent_status is None else agent.wire() | {"standing": agent_status.wire()}

    async def _agent(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["id"]
        agent = None if self._dispatch is None else self._dispatch.agents.get(agent_id)
        if agent is None:
            return error_answer(404, f"agent {agent_id!r} is not registered")
        return json_answer(self._shown(agent))

    async def _schedules(self, request: web.Request) -> web.Response:
        """Of this worker's partitions: each with its next time."""
        return json_answer([] if self._scheduler is None else self._scheduler.rows())

    def _partition_statuses(self) -> Iterator[PartitionStatus]:
        """Of all roles."""
        return chain.from_iterable(role.partition_statuses() for role in self.roles.values())

    async def _worker(self, request: web.Request) -> web.Response:
        """This worker: name, partitions, load, and the workers it knows."""
        checks = self._roles_ready()
        reasons = [f"{role} is not ready" for role, up in checks.items() if not up] + self.problems()
        owned = {name: _numbers(role) for name, role in self.roles.items()}
        calling, waiting = (0, 0) if self._dispatch is None else self._dispatch.tasks()
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
                "tasks": {"calling": calling, "waiting": waiting},
                "web": self.reachable,
                "peers": sorted(self._peers()),
            }
        )

    def _peers(self) -> set[str]:
        """The addresses of other workers with the role plans, from the coordinators' group."""
        coordination = self._coordination()
        return set() if coordination is None else coordination.workers() - {self.reachable}

    def engines(self) -> dict[RoleName, Engine[Any]]:
        """By role, of those that are up."""
        return {name: role.engine for name, role in self.roles.items() if isinstance(role, EngineRole)}

    def _dropped_events(self) -> dict[str, int]:
        """Role -> progress events that could not be sent."""
        return {name: role.events_dropped() for name, role in self.roles.items() if isinstance(role, EngineRole)}

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


def _numbers(role: Role) -> list[int]:
    """The partition numbers that a role owns, including those it is opening."""
    if isinstance(role, EngineRole):
        return sorted(processor.number for processor in role.engine.opened)
    return sorted({status.partition for status in role.partition_statuses()})
