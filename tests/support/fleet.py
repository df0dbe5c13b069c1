"""Several fake agents in one thread, beside a synchronous test: their scripts change while it runs, their logs are at hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from agents_io.fakes.http import FakeAgent, Received
from agents_io.fakes.steps import ScriptStep

START_TIMEOUT_S = 10.0
RECENT = 20


class Fleet:
    """`with Fleet({"a": [status(503)]}, per_task={"a"}) as fleet:` serves all of them until the end of the block."""

    def __init__(self, scripts: Mapping[str, ScriptStep | Sequence[ScriptStep]], per_task: Sequence[str] = ()) -> None:
        self.agents = {name: FakeAgent(steps, per_task=name in per_task) for name, steps in scripts.items()}
        self._loop = asyncio.new_event_loop()
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def script(self, name: str, steps: ScriptStep | Sequence[ScriptStep]) -> None:
        """The agent goes by these steps from now on."""
        self._loop.call_soon_threadsafe(self.agents[name].script, steps)

    def calls(self, name: str) -> list[Received]:
        """What the agent has seen so far, by begin; those under way have `ended` empty."""
        return list(self.agents[name].calls)

    def last_caller(self, name: str) -> str:
        """The Authorization of the last call; empty if there was none."""
        calls = self.agents[name].calls
        return calls[-1].headers.get("Authorization", "") if calls else ""

    def calling(self, caller: str) -> int:
        """How many calls with that Authorization are under way, among each agent's last."""
        recent = [call for agent in self.agents.values() for call in list(agent.calls)[-RECENT:]]
        return sum(not call.ended and call.headers.get("Authorization") == caller for call in recent)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        started: list[FakeAgent] = []
        try:
            for agent in self.agents.values():
                await agent.__aenter__()
                started.append(agent)
            self._ready.set_result(None)
            await self._stop.wait()
        finally:
            for agent in started:
                await agent.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(START_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)
