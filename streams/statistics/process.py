"""The separate process of statistics beside a worker's other roles: its work delays no task.

Started by `StatsProcess`. In: a pickled `ProcessConfig` on stdin; once stdin ends, the process flushes, commits and
leaves. Out: on stdout the port of 127.0.0.1 where it answers, for the holder of its token: the queries of `StatsApi`,
and `GET /internal/status`. It dies with its parent (see `tied_to_parent`).
"""

from __future__ import annotations

import asyncio
import hmac
import os
import pickle
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from streams.broker.noise import quiet_logs
from streams.engine.faults import describe_error, is_refused
from streams.fast_loop import in_fast_loop
from streams.logs import configure_logs
from streams.statistics.api import StatsApi
from streams.statistics.process_config import PARENT_HEADER, STATUS, STOP_TIMEOUT_S, ProcessConfig, to_json
from streams.statistics.role import StatsSupervisor
from streams.tokens import token_to_show

log = structlog.get_logger(__name__)


class _Served:
    """Serves the parent alone."""

    def __init__(self, config: ProcessConfig) -> None:
        self._config = config
        self._supervisor = StatsSupervisor(config.settings, config.idempotent, config.address)
        self._api = StatsApi(lambda: self._supervisor, token_to_show(config.settings))
        self._failed: dict[str, Any] | None = None
        self._started = False
        self._runner: web.AppRunner | None = None

    async def listen(self) -> int:
        app = web.Application(client_max_size=64 * 1024, middlewares=[self._only_parent])
        app.add_routes([web.get(STATUS, self._status), *self._api.routes()])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port: int = self._runner.addresses[0][1]
        return port

    async def start(self) -> None:
        """The first start. A fatal error is reported with the status: the parent then ends the process."""
        try:
            await self._supervisor.start()
            self._started = True
        except (KafkaError, TimeoutError) as error:
            self._failed = {"reason": describe_error(error), "exitCode": 1 if is_refused(error) else 3}
        except Exception as error:
            log.exception("statistics could not be started")
            self._failed = {"reason": str(error) or repr(error), "exitCode": 1}

    async def stop(self) -> None:
        """Flush, commit, leave."""
        await self._supervisor.stop()
        await self._api.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _only_parent(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get(PARENT_HEADER, ""), self._config.token):
            raise web.HTTPForbidden
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _status(self, request: web.Request) -> web.Response:
        return web.Response(
            body=orjson.dumps(
                {
                    "started": self._started,
                    "failed": self._failed,
                    "ready": self._supervisor.ready,
                    "counters": to_json((self._supervisor.counters() or {}) | {"process": _used()}),
                    "partitions": [[*place[:6], place.blocking()] for place in self._supervisor.partition_statuses()],
                },
                option=orjson.OPT_NON_STR_KEYS,
            ),
            content_type="application/json",
        )


def _used() -> dict[str, float]:
    """Resources used by this process: CPU seconds; bytes of memory (the peak, without `/proc`)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        memory = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:
        memory = used.ru_maxrss * 1024
    return {"cpu": used.ru_utime + used.ru_stime, "memory": memory}


async def _serve(config: ProcessConfig, port_fd: int) -> None:
    quiet_logs()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: _Lifeline(ended), sys.stdin)
    served = _Served(config)
    os.write(port_fd, b"%d\n" % await served.listen())
    starting = asyncio.create_task(served.start())
    await ended.wait()
    loop.call_later(STOP_TIMEOUT_S, os._exit, 1)
    starting.cancel()
    await asyncio.wait([starting])
    await served.stop()


class _Lifeline(asyncio.Protocol):
    """Sets `ended` when the parent closes the pipe, or is gone."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


def main() -> None:
    """Run until stdin ends."""
    # The parent decides when to stop, also where a signal goes to all processes of a service.
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.SIG_IGN)
    port_fd = os.dup(1)
    os.dup2(2, 1)  # stdout is for the port
    config: ProcessConfig = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    configure_logs(config.settings)
    in_fast_loop(_serve(config, port_fd))
