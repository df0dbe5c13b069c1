"""The statistics role of a worker with other roles: a separate process, supervised here.

In: settings. Out: the interface of `StatsSupervisor`: readiness, counters, positions, answers to queries. A process
that ends by itself is started again after a pause. See `process.py` for the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import secrets
import sys
from functools import partial
from typing import Any

import aiohttp
import orjson
import structlog
from yarl import URL

from streams.broker.processes import tied_to_parent
from streams.engine.partition_status import PartitionStatus
from streams.settings import RoleName, Settings
from streams.statistics.process_config import PARENT_HEADER, STATUS, STOP_TIMEOUT_S, ProcessConfig, from_json
from streams.statistics.role import StatsSupervisor

log = structlog.get_logger(__name__)

LOOK_S = 0.5
ASK_TIMEOUT_S = 20.0
LISTEN_TIMEOUT_S = 60.0
START_TIMEOUT_S = 330.0
"""Longer than the processor waits for Faust."""
PAUSE_S = 2.0
MAX_PAUSE_S = 30.0
_BEGIN = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from streams.statistics.process import main
main()
"""
"""The process runs the same code as this one, wherever that was found."""
GONE = {"error": "recovering: statistics are starting here"}


def _as_it_was(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The reported reason, unchanged."""
    return found


class StatsFailed(Exception):
    """Why statistics could not be started, in one line. `exit_code`: for the worker."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StatsProcess:
    """Supervises one process at a time."""

    name: RoleName = "stats"

    def __init__(self, settings: Settings, idempotent: bool, address: str = "") -> None:
        self._config = ProcessConfig(settings, idempotent, address, secrets.token_hex(32))
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._url = ""
        self._status: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None while there is none."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def ready(self) -> bool:
        """Whether statistics were recovered and assigned a moment ago."""
        return bool(self._status.get("ready"))

    def counters(self) -> dict[str, Any] | None:
        """The counters of a moment ago; None without any."""
        return from_json(self._status.get("counters"))

    def partition_statuses(self) -> list[PartitionStatus]:
        """Its position a moment ago in each partition of `data-points`."""
        return [
            PartitionStatus(topic, number, committable, after, in_flight, lag, partial(_as_it_was, blocking))
            for topic, number, committable, after, in_flight, lag, blocking in self._status.get("partitions", ())
        ]

    async def start(self) -> None:
        """The first start. Raises `StatsFailed`, for the user to fix."""
        async with asyncio.timeout(START_TIMEOUT_S):
            await self._begin()
        self._task = asyncio.create_task(self._keep(), name="stats-process")

    async def wait_ready(self) -> None:
        while not self.ready:  # noqa: ASYNC110 - a state of another process, looked at during a start only
            await asyncio.sleep(0.05)

    async def failed(self) -> None:
        """Never returns: statistics that fail are started again."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Flush, commit, leave."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end()

    async def answer(self, path: str) -> tuple[int, bytes]:
        """Status and JSON for a query to the worker's web server. `path`: with its query string."""
        session, process = self._session, self._process
        if session is None or process is None or process.returncode is not None:
            return 503, orjson.dumps(GONE)
        try:
            async with session.get(URL(self._url + path, encoded=True)) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return 503, orjson.dumps({"error": f"recovering: statistics do not answer ({error!r})"})

    async def _begin(self) -> None:
        """Start a process and wait until it has started. Raises `StatsFailed`."""
        process = self._process = await asyncio.create_subprocess_exec(
            *tied_to_parent([sys.executable, "-c", _BEGIN]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the worker
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process without pipes")
        process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(self._config))
        try:
            async with asyncio.timeout(LISTEN_TIMEOUT_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            await self._end()
            raise StatsFailed(f"the process of the statistics did not begin (exit code {process.returncode})")
        self._url = f"http://127.0.0.1:{int(line)}"
        self._session = aiohttp.ClientSession(
            headers={PARENT_HEADER: self._config.token},
            timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S),
            auto_decompress=False,
        )
        while not self._status.get("started"):
            await self._read_status()
            if (failed := self._status.get("failed")) is not None:
                await self._end()
                raise StatsFailed(f"statistics: {failed['reason']}", failed["exitCode"])
            if process.returncode is not None:
                raise StatsFailed(f"the statistics process ended with code {process.returncode}")
            await asyncio.sleep(0.05)

    async def _read_status(self) -> None:
        status, body = await self.answer(STATUS)
        # One that does not answer is not ready; its counters stay: they would seem to begin again at 0.
        self._status = orjson.loads(body) if status == 200 else self._status | {"ready": False}

    async def _keep(self) -> None:
        pause_s = PAUSE_S
        while True:
            process = self._process
            if process is not None and process.returncode is None:
                await self._read_status()
                pause_s = PAUSE_S if self.ready else pause_s
                await asyncio.sleep(LOOK_S)
                continue
            code = None if process is None else process.returncode
            await self._end()
            log.warning("the statistics process ended; starting another one", code=code, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await self._begin()
            except Exception as error:  # any error: nothing else would start it again
                await self._end()
                log.warning("statistics could not be started", error=str(error) or repr(error), pause_s=pause_s)

    async def _end(self) -> None:
        """Close its stdin and wait; kill it if that takes too long."""
        process, self._process, self._status = self._process, None, {}
        if self._session is not None:
            await self._session.close()
            self._session = None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S + 2):
                await process.wait()
        except TimeoutError:
            log.warning("the statistics process did not stop in time and was killed", pid=process.pid)
            process.kill()
            await process.wait()


Statistics = StatsSupervisor | StatsProcess
"""The role, here or in a process of its own."""
