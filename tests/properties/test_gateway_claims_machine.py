"""Three workers, one agent, one topic: whatever the order of connections, losses, writes, acknowledgements and reads, all agree.

Records lie in the order they were sent; each worker reads them, and hears that its own were written, when it likes. In the end,
when everybody has read and written all, the agent's newest connection holds it and every older one was closed; if none is left,
the agent is unregistered.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from agents_io.protocols.gateway.service import Arrival
from schemas.messages import AgentRegistration
from streams.gateway.registry import GatewayRegistry
from streams.rules.agents.gateway_claim import OWN_HEADER, Position, where_of

WORKERS = 3
workers = st.integers(0, WORKERS - 1)
Entry = tuple[AgentRegistration | None, str]


class Worker:
    """A registry, how far it has read, and its writes that are not acknowledged."""

    def __init__(self, number: int, log: list[Entry], grace_s: float) -> None:
        self.log = log
        self.read = 0
        self.known: AgentRegistration | None = None
        self.unacknowledged: list[tuple[asyncio.Future[Position], Position]] = []
        self.key: str | None = None
        """The connection that is open here."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.flushing: asyncio.Task[None] | None = None
        self.registry = GatewayRegistry(
            node=f"n{number}", lookup=lambda _: self.known, write=self.write, tell=lambda *_: None, grace_s=grace_s
        )
        self.registry.address = f"n{number}:1"
        self.registry.drop = self.drop

    async def write(self, agent_id: str, agent: AgentRegistration | None, mark: str) -> Position:
        self.log.append((agent, mark))
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self.unacknowledged.append((future, Position(0, len(self.log) - 1)))
        return await future

    def drop(self, agent_id: str, key: str, why: str) -> None:
        if self.key == key:
            self.key = None

    def follow(self) -> None:
        if self.read < len(self.log):
            agent, mark = self.log[self.read]
            self.known = agent
            headers = [(OWN_HEADER, mark.encode())] if mark else []
            record: Any = SimpleNamespace(partition=0, offset=self.read, headers=headers)
            self.registry.on_record("a", agent, record)
            self.read += 1

    def acknowledge(self) -> None:
        if self.unacknowledged:
            future, place = self.unacknowledged.pop(0)
            if not future.done():
                future.set_result(place)

    def flush(self) -> None:
        if self.flushing is None or self.flushing.done():
            self.flushing = asyncio.get_running_loop().create_task(self.registry.flush())


class ClaimsMachine(RuleBasedStateMachine):
    """With no grace at all, and with one that never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.log: list[Entry] = []
        self.workers: list[Worker] = []
        self.made = 0
        self.newest = ""
        """The newest connection, unless it was lost."""

    @initialize(grace_s=st.sampled_from([0.0, 1e6]))
    def begin(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.workers = [Worker(number, self.log, grace_s) for number in range(WORKERS)]

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.runner.close()

    def step(self, action: Any) -> None:
        """Do it, and let whatever it wakes run until it waits again."""

        async def run() -> None:
            action()
            for _ in range(5):
                await asyncio.sleep(0)

        self.runner.run(run())

    @rule(number=workers)
    def connect(self, number: int) -> None:
        worker = self.workers[number]
        key = f"k{self.made}"
        self.made += 1
        self.newest = key
        worker.key = key  # the gateway closes an older one of its own by itself
        arrival = Arrival(key, "a", "", (), {}, "")
        self.step(lambda: worker.tasks.append(asyncio.get_running_loop().create_task(worker.registry.arrived(arrival))))

    @rule(number=workers)
    def lose(self, number: int) -> None:
        worker = self.workers[number]
        if worker.key is not None:
            key, worker.key = worker.key, None
            self.newest = "" if self.newest == key else self.newest
            self.step(lambda: worker.registry.left("a", key, "it hung up"))

    @rule(number=workers)
    def follow(self, number: int) -> None:
        self.step(self.workers[number].follow)

    @rule(number=workers)
    def acknowledge(self, number: int) -> None:
        self.step(self.workers[number].acknowledge)

    @rule(number=workers)
    def flush(self, number: int) -> None:
        self.step(self.workers[number].flush)

    @rule()
    def settle(self) -> None:
        """Everybody does all there is to do, until nothing more comes of it."""
        quiet = 0
        for _ in range(60):
            before = len(self.log)
            for worker in self.workers:
                self.step(worker.flush)
                while worker.unacknowledged:
                    self.step(worker.acknowledge)
                while worker.read < len(self.log):
                    self.step(worker.follow)
            busy = any(worker.flushing is not None and not worker.flushing.done() for worker in self.workers)
            quiet = quiet + 1 if len(self.log) == before and not busy else 0
            if quiet == 3:
                break
        else:
            raise AssertionError("the workers go on writing against each other")
        living = [worker.key for worker in self.workers if worker.key is not None]
        assert living == ([self.newest] if self.newest else []), "the newest connection holds the agent, and no other"
        where = where_of(self.log[-1][0]) if self.log else None
        if living:
            assert where is not None
            assert (where.key, where.status) == (living[0], "healthy")
            assert sum(worker.registry.holds("a") for worker in self.workers) == 1
        elif self.log and self.grace_s:
            assert where is not None
            assert where.status == "away", "nobody holds the agent, and yet it is said to be there"
        elif self.log:
            assert self.log[-1][0] is None, "nobody holds the agent, and yet it is registered"
        assert all(task.result() is None for worker in self.workers for task in worker.tasks)


TestGatewayClaims = ClaimsMachine.TestCase
TestGatewayClaims.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
