"""A broker as a child process on a free loopback port: started, waited for, stopped. It dies with its parent.

In: from a subclass, the command that runs it. Out: an address to connect to.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from streams.broker.kafka import BrokerUnreachable, reach
from streams.broker.processes import end, free_port, tied_to_parent
from streams.settings import Settings

STOP_TIMEOUT_S = 3.0
START_TRIES = 3
KEPT_OUTPUT_BYTES = 4096


class ChildBrokerError(Exception):
    """The broker is not installed or did not start. The message is one line."""


class ChildBroker(ABC):
    """`async with EmbeddedBroker() as broker: ... broker.bootstrap_servers`. One start and one stop for each object."""

    name: ClassVar[str]
    """Its name in messages."""
    start_timeout_s: ClassVar[float]

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._output = b""
        self._port = 0

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:port`."""
        if self._process is None:
            raise ChildBrokerError(f"{self.name} is not running")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id; None when it is not running."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return when the broker answers. Raises `ChildBrokerError` after `START_TRIES` tries of `start_timeout_s`
        each.
        """
        if self._process is not None:
            raise ChildBrokerError(f"{self.name} is already running")
        program = self._find()
        problem = ""
        for _ in range(START_TRIES):  # another process may take the port between our look and its bind
            try:
                await self._launch(program)
                await self._ready()
            except BrokerUnreachable as error:
                problem = str(error)
                await self.stop()
            except BaseException:
                await self.stop()
                raise
            else:
                return
        raise ChildBrokerError(f"{self.name} did not start: {problem}; {self._last_words()}")

    @abstractmethod
    def _find(self) -> str:
        """The program to run. Raises `ChildBrokerError` if it is not installed."""

    @abstractmethod
    async def _command(self, program: str, port: int) -> list[str]:
        """The command for that port of 127.0.0.1. Raises `ChildBrokerError`."""

    def _environment(self) -> dict[str, str] | None:
        """The environment of the process; None: this process's own."""
        return None

    async def _launch(self, program: str) -> None:
        self._port = free_port()
        command = await self._command(program, self._port)
        # A session of its own: Ctrl-C in the terminal reaches the worker, which drains while the broker still answers.
        self._process = await asyncio.create_subprocess_exec(
            *tied_to_parent(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,
        )
        self._output = b""
        self._reader = asyncio.create_task(self._keep_output(self._process), name="broker-output")

    async def _keep_output(self, process: asyncio.subprocess.Process) -> None:
        """Read its output, which would block the process otherwise; keep the end for error messages."""
        if process.stdout is None:
            return
        while chunk := await process.stdout.read(KEPT_OUTPUT_BYTES):
            self._output = (self._output + chunk)[-KEPT_OUTPUT_BYTES:]

    async def _ready(self) -> None:
        if self._process is None:
            raise ChildBrokerError(f"{self.name} is not running")
        answers = asyncio.create_task(reach(Settings(bootstrap_servers=self.bootstrap_servers), self.start_timeout_s))
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
        return f"its last output: {lines[-1][:300]}" if lines else "it printed nothing"

    async def stop(self) -> None:
        """SIGTERM, after `STOP_TIMEOUT_S` SIGKILL. Idempotent; never raises because the process is gone already."""
        process, self._process = self._process, None
        if process is None:
            return
        await end(process, STOP_TIMEOUT_S)
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
