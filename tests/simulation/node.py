"""The process of a simulated worker: a loop of its own that the world steps, so that it can be frozen, stopped and killed.

In: the surroundings of its world. Out: a `Worker` on that loop, with the process' clock, network and best-effort records.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from schemas.partitioning import owner_partition
from schemas.topics import full_name
from streams.rules.records import Output
from tests.simulation.agents import Arrival, SimAgent
from tests.simulation.committer import log_of
from tests.simulation.loop import NodeLoop
from tests.simulation.surroundings import Surroundings
from tests.simulation.worker import Worker


class Node:
    """One process. `skew_ms`: how far its wall clock is ahead of the true one. `instance`: its static name, if it has one."""

    def __init__(self, shared: Surroundings, name: str, skew_ms: int = 0, instance: str | None = None) -> None:
        self.shared, self.name, self.instance = shared, name, instance
        self.world, self.network, self.broker = shared.world, shared.network, shared.broker
        self.settings = shared.settings
        self.prefix = self.settings.topic_prefix
        self.app = self.settings.app_id
        self.rng = self.world.rng(name)
        self.frozen_until = 0.0
        self.alive = True
        self.stopping = self.stopped = False
        self.metadata = dict(self.broker.counts)
        self.partition_counts = dict(self.broker.counts)
        self.open_calls: dict[int, tuple[SimAgent, Arrival]] = {}
        self._skew_ms = skew_ms
        self._emitted_at = 0.0
        self._tasks: list[asyncio.Task[Any]] = []
        self.loop = NodeLoop(lambda: self.world.now, 500.0 + 1000 * self.rng.random(), self._complain)
        self.due, self.step = self.loop.due, self.loop.step
        self.worker = Worker(self)
        self.loop.call_soon(lambda: self.spawn(self.worker.run()))
        shared.nodes[name] = self.world.stepped[name] = self

    # What the world does to it

    def freeze(self, seconds: float) -> None:
        """Stop it, as SIGSTOP does; its clocks go on."""
        self.frozen_until = self.world.now + seconds

    def kill(self) -> None:
        """End it at once; its connections are closed by its operating system."""
        self.alive = False
        if not self.stopped:
            for durability in self.shared.durability.values():
                durability.killed(self.name, self.world.now)
        del self.shared.nodes[self.name], self.world.stepped[self.name]
        self.shared.buried.append(self)
        # The tasks of a dead process never end; asyncio would report each of them when it is collected.
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        for agent, arrival in self.open_calls.values():
            agent.hung_up(arrival)

    def stop(self) -> None:
        """End it as SIGTERM does: it drains, commits and leaves, and is gone then."""
        if not self.stopping:
            self.stopping = True
            self.loop.call_soon(lambda: self.spawn(self._leave()))

    async def _leave(self) -> None:
        await asyncio.gather(*(engine.stop() for engine in self.worker.engines.values()))
        self.stopped = True
        self.world.at(0.0, self._end)

    def _end(self) -> None:
        if self.alive:
            self.kill()

    def oust(self) -> None:
        """Another has its static name: the process ends. Its supervisor starts one where none of that name is left."""
        self._end()
        if all(node.instance != self.instance for node in self.shared.nodes.values()):
            self.shared.restart(self.instance)

    def deliver(self, future: asyncio.Future[Any], outcome: Any) -> None:
        """Resolve a future on this node's loop."""
        if self.alive:
            self.loop.call_soon(_resolve, future, outcome)

    def _complain(self, context: dict[str, Any]) -> None:
        self.world.errors.append(
            f"{self.world.now:.3f} {self.name}: {context.get('message')} {context.get('exception')!r}"
        )

    def spawn(self, work: Any) -> None:
        """Run it on this node's loop; an error of it is reported."""
        task = self.loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._report)

    def _report(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.errors.append(f"{self.world.now:.3f} {self.name}: {error!r} in {task.get_coro()}")

    # What the product is given

    def wall_ms(self) -> int:
        """This node's wall clock."""
        return self.world.wall_ms + self._skew_ms

    def emit(self, output: Output) -> None:
        """Write outside of transactions: best effort, in order."""
        log_id = log_of(output, self.prefix, self.metadata)
        if log_id is None:
            return
        if output.topic == "events" and output.value is not None:  # noted as it happens: the event itself may get lost
            if b'"circuit:open"' in output.value:
                self.shared.opened.append((self.world.now, self.name, orjson.loads(output.value)["data"]["agentId"]))
            elif b'"task:cache-hit"' in output.value:
                self.shared.served.add(orjson.loads(output.value)["data"]["taskId"])
        row = output.key, output.value, tuple(output.headers)
        self._emitted_at = max(self._emitted_at, self.world.now + self.network.latency())
        self.world.at(
            self._emitted_at - self.world.now,
            lambda: None if self.network.is_out else self.broker.append(log_id, [row]),
        )

    def check_owner(self, agent_id: str) -> None:
        """Note a call that is made while another node owns the agent's partition."""
        group = self.broker.groups.get(f"{self.app}-dispatch")
        tasks = full_name("tasks", self.prefix)
        if group is None or not group.numbers:
            return
        number = owner_partition(agent_id, group.numbers[-1][1])
        owner, since = group.owners.get((tasks, number), ("", 0.0))
        if owner and not owner.startswith(f"{self.name}/") and self.world.now - since > 1.0:
            self.shared.strays.append((self.world.now, self.name, agent_id, owner.split("/")[0]))


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        future.set_result(outcome)
