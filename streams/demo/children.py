"""A child process that reports when it is ready and is always ended afterwards.

In: a command, a directory. Out: its ready line; its last output if it ended too early. It dies with its parent (Linux),
gets none of the user's `PARALLAX_*`, and does not receive the terminal's Ctrl-C: its starter stops it, in the right
order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streams.broker.processes import end, tied_to_parent

STOP_TIMEOUT_S = 12.0
KEPT_BYTES = 8192
LINE_BYTES = 64 * 1024


class ChildFailed(Exception):
    """A child did not start, or ended by itself. One line: which, how, its last output."""


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the user's settings of Parallax."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARALLAX_")}
    return kept | (extra or {})


class Child:
    """One process. `start` once, `stop` once or more."""

    def __init__(self, *, name: str, command: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._command = list(command)
        self._directory = directory
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._tail = b""

    @property
    def pid(self) -> int | None:
        """Its process id; None before the start."""
        return None if self._process is None else self._process.pid

    async def start(self, ready: Callable[[str], str | None], timeout_s: float) -> str:
        """Return what `ready` makes of the first line of stdout that it accepts. Raises `ChildFailed`."""
        self._process = await asyncio.create_subprocess_exec(
            *tied_to_parent(self._command),
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LINE_BYTES,
        )
        announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout, ready, announced), name=f"{self.name}-stdout"),
            asyncio.create_task(self._read(self._process.stderr, None, announced), name=f"{self.name}-stderr"),
        ]
        ended = asyncio.create_task(self._process.wait())
        either: set[asyncio.Future[Any]] = {announced, ended}
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if announced.done():
            return announced.result()
        if self._process.returncode is None:
            raise ChildFailed(f"{self.name} was not ready within {timeout_s:g} s; {self.last_words()}")
        await asyncio.wait(self._readers, timeout=1.0)
        raise ChildFailed(self._how_it_ended())

    async def ended(self) -> None:
        """Raises `ChildFailed` once the process has ended. Cancel it before stopping the child."""
        if self._process is not None:
            await self._process.wait()
            await asyncio.wait(self._readers, timeout=1.0)
        raise ChildFailed(self._how_it_ended())

    def _how_it_ended(self) -> str:
        code = None if self._process is None else self._process.returncode
        return f"{self.name} ended with code {code}; {self.last_words()}"

    def last_words(self) -> str:
        """The last line it printed."""
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return f"its last output: {lines[-1].strip()[:400]}" if lines else "it printed nothing"

    async def _read(
        self,
        stream: asyncio.StreamReader | None,
        ready: Callable[[str], str | None] | None,
        announced: asyncio.Future[str],
    ) -> None:
        """Read to the end, which keeps the pipe from filling; keep the last lines."""
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:  # a line longer than LINE_BYTES: ignore it and read on
                continue
            if not line:
                return
            if (
                ready is not None
                and not announced.done()
                and (found := ready(line.decode("utf-8", "replace"))) is not None
            ):
                announced.set_result(found)
            else:
                self._tail = (self._tail + line)[-KEPT_BYTES:]

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, and SIGKILL when it has not ended after `timeout_s`. Idempotent."""
        process = self._process
        if process is None:
            return
        await end(process, timeout_s)
        if self._readers:
            await asyncio.wait(self._readers, timeout=1.0)
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
