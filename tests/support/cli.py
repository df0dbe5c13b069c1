"""The console script on the embedded broker, for tests of what it prints where and how it exits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.rig import clean_environment, parallax

START_MS = 1_795_354_620_000


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def lines(self) -> list[Any]:
        """stdout as JSON lines."""
        return [orjson.loads(text) for text in self.out.splitlines()]


@dataclass(slots=True)
class Cli:
    """The console script in a directory of its own, pointed at one broker and prefix."""

    settings: Settings
    directory: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start it and leave it running."""
        return await asyncio.create_subprocess_exec(
            *parallax(*arguments, "--bootstrap-servers", self.settings.bootstrap_servers),
            *("--topic-prefix", self.settings.topic_prefix),
            cwd=self.directory,
            env=clean_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Run it to its end."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def cli(embedded: EmbeddedBroker, settings_for: Any, tmp_path: Path) -> Cli:
    """The command line, with no topics yet."""
    return Cli(settings_for(embedded), tmp_path)


@pytest.fixture
async def ready(cli: Cli) -> Cli:
    """The command line, with all topics."""
    await apply(cli.settings, partitions=2)
    return cli


def task(task_id: str, **more: Any) -> dict[str, Any]:
    """A valid agent task."""
    return {"id": task_id, "type": "agent", "target": "a1", "payload": {"task": "hello"}} | more


def as_lines(*messages: Any) -> bytes:
    """JSON lines."""
    return b"".join(orjson.dumps(message) + b"\n" for message in messages)
