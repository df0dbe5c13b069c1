"""A client of `/api/v1/stream` for tests: what was sent, message by message.

In: a URL. Out: `Sent` rows as they come, and the last id, to come back with. It never comes back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson


@dataclass
class Stream:
    """What one connection brought. `messages`: (kind, data) in order."""

    messages: list[tuple[str, Any]] = field(default_factory=list)
    cursor: str | None = None
    ended: bool = False
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events, in order."""
        return [event for kind, data in self.messages if kind == "events" for event in data]

    @property
    def dropped(self) -> int:
        """How many it was told it did not get."""
        return sum(data["count"] for kind, data in self.messages if kind == "dropped")

    def keyed(self) -> list[tuple[str, str]]:
        """Type and task of each event about a task."""
        return [(event["type"], event["data"]["taskId"]) for event in self.events if "taskId" in event["data"]]

    async def until(self, done: Callable[[Stream], bool], timeout_s: float = 30.0) -> Stream:
        """Wait until this is so."""
        async with asyncio.timeout(timeout_s):
            while not done(self):
                self.moved.clear()
                await self.moved.wait()
        return self

    async def read(self, content: aiohttp.StreamReader) -> None:
        """Take in what comes, to the end."""
        kind = cursor = None
        try:
            while line := await content.readuntil(b"\n"):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    cursor = value
                elif name == "event":
                    kind = value
                elif name == "data" and kind is not None:
                    self.messages.append((kind, orjson.loads(value)))
                    self.cursor = cursor or self.cursor
                    kind = cursor = None
                    self.moved.set()
        except (aiohttp.ClientError, ConnectionError):
            pass
        self.ended = True
        self.moved.set()


def completed(count: int, *streams: Stream) -> bool:
    """Whether that many completed tasks were seen in all."""
    return sum(kind == "task:completed" for stream in streams for kind, _ in stream.keyed()) >= count


@asynccontextmanager
async def streaming(web: str, *, cursor: str | None = None, **query: Any) -> AsyncIterator[Stream]:
    """Look on for the block; at its end the connection is cut."""
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session,
        session.get(f"{web}/api/v1/stream", headers=headers, params=query) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        stream = Stream()
        reading = asyncio.create_task(stream.read(response.content))
        try:
            yield stream
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            response.close()
