"""Agents from the file `agents_file`: registered when the worker starts, and again whenever the file changes.

In: the file's path, the table of agents. Out: registrations and removals on the topic `agents`, only those that differ
(`rules/agents/agents_file_diff.py`), so any number of workers of an app may use the same file. A change is applied once
the file has been the same in two checks, a second apart. A missing or invalid file changes nothing and is logged once.
Between changes of the file, other registrations of its agents are left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from streams.agents.registration_writer import RegistrationWriter
from streams.agents.table import AgentTable
from streams.rules.agents.agents_file_diff import AgentsFileError, changes, parse
from streams.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

LOOK_S = 1.0
MAX_FILE_BYTES = 64 * 1024 * 1024


class AgentsFile:
    """One file, and the agents registered from it."""

    def __init__(self, *, path: Path, app_id: str, table: AgentTable, writer: RegistrationWriter) -> None:
        self._writer = writer
        self._path = path
        self._table = table
        self._mark = f"agents-file:{app_id}"
        self._settled = b""
        """Digest of the content that was last applied, or logged as invalid."""
        self._stamp: tuple[int, int, int] | None = None

    async def start(self) -> None:
        """Register what the file holds. Raises `SettingsError` when it cannot be read, `NotWritten`, and what Kafka raises."""
        try:
            content = self._read()
            await self._merge(content)
        except (OSError, AgentsFileError) as error:
            raise SettingsError(f"agents_file {self._path}: {_reason(error)}") from None
        self._settled = _digest(content)

    async def run(self) -> None:
        """Check the file again and again, until cancelled."""
        before = b""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                before = await self.check(before)
            except Exception as error:  # the brokers' fault or ours: the next check tries again
                log.warning("agents_file could not be applied; trying again", file=str(self._path), error=repr(error))

    async def check(self, before: bytes) -> bytes:
        """Check the file once. `before`: what the last check returned. Applies a change that both saw."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return self._settled
            content = self._read()
        except OSError as error:
            digest = b"missing"
            if digest != self._settled:
                log.warning(
                    "agents_file cannot be read; keeping the agents registered from it",
                    file=str(self._path),
                    error=_reason(error),
                )
            self._settled, self._stamp = digest, None
            return digest
        digest = _digest(content)
        if digest != before and digest != self._settled:
            return digest
        if digest != self._settled:
            try:
                await self._merge(content)
            except AgentsFileError as error:
                log.warning(
                    "agents_file is invalid; keeping the agents registered from it",
                    file=str(self._path),
                    error=_reason(error),
                )
        self._settled, self._stamp = digest, stamp
        return digest

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise OSError(f"is larger than {MAX_FILE_BYTES} bytes")
        return content

    async def _merge(self, content: bytes) -> None:
        wanted = parse(content, self._mark)
        await self._table.catch_up()
        work = changes(wanted, self._table.all(), self._mark)
        if not work:
            return
        await self._writer.write_all(work)
        removed = sum(agent is None for _, agent in work)
        log.info("agents_file applied", file=str(self._path), registered=len(work) - removed, removed=removed)


@asynccontextmanager
async def following(settings: Settings, table: AgentTable, writer: RegistrationWriter) -> AsyncIterator[None]:
    """Follow the settings' file, if any, within the block. Raises `SettingsError` at its start."""
    if settings.agents_file is None:
        yield
        return
    file = AgentsFile(path=Path(settings.agents_file), app_id=settings.app_id, table=table, writer=writer)
    await file.start()
    task = asyncio.create_task(file.run(), name="agents-file")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
