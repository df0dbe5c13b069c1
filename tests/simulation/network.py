"""The network between nodes and broker: delays, losses, slow spells, outages.

In: a request as a function to run at the broker. Out: its answer, later; or aiokafka's error for what became of it. A request
whose answer is lost was carried out all the same: its sender cannot know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

from tests.simulation.world import World

Reply = Callable[[Any], None]


class Endpoint(Protocol):
    """Who sends requests: it has a loop, and may be dead when the answer comes."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its loop."""
        ...

    def deliver(self, future: asyncio.Future[Any], outcome: Any) -> None:
        """Resolve a future on its loop, unless the node is dead."""
        ...


class Network:
    """One network for all; its faults are attributes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loss = 0.0
        """Share of requests that get lost, and of answers."""
        self.slowness = 1.0
        """What delays are multiplied by."""
        self.outage_until = 0.0
        """Until then no request reaches the broker."""
        self.holds_up = False
        """Whether transactional requests that seem lost arrive later."""
        self._rng = world.rng("network")

    @property
    def is_out(self) -> bool:
        """Whether the broker is away."""
        return self.world.now < self.outage_until

    def latency(self) -> float:
        """One way, seconds: mostly 1 to 2 ms, at times up to 300."""
        draw = self._rng.random()
        return (0.0005 + 0.002 * draw if draw < 0.97 else self._rng.random() * 0.3) * self.slowness

    def heal(self) -> None:
        """End every fault."""
        self.loss, self.slowness, self.outage_until = 0.0, 1.0, 0.0

    async def request(
        self, sender: Endpoint, action: Callable[[], Any], *, timeout_s: float = 30.0, late: bool = False
    ) -> Any:
        """Run `action` at the broker; its result or exception. Raises `KafkaConnectionError`, `RequestTimedOutError`.

        `late`: a lost request is only held up, and is carried out after its sender was told that the connection broke.
        """
        return await self.request_held(sender, lambda reply: reply(action()), timeout_s=timeout_s, late=late)

    async def request_held(
        self, sender: Endpoint, action: Callable[[Reply], None], *, timeout_s: float = 30.0, late: bool = False
    ) -> Any:
        """As `request`, for what the broker may answer later: `action` is given the way to answer."""
        world, future = self.world, sender.loop.create_future()
        lost, answer_lost = self._rng.random() < self.loss, self._rng.random() < self.loss

        def respond(kind: str, value: Any, delay_s: float = 0.0) -> None:
            world.at(delay_s + self.latency(), lambda: sender.deliver(future, (kind, value)))

        def reply(value: Any) -> None:
            if answer_lost:
                respond("error", RequestTimedOutError(), 0.5)
            else:
                respond("ok", value)

        def arrive() -> None:
            if lost or self.is_out:
                respond("error", KafkaConnectionError("connection lost"), 0.03)
                if late and not self.is_out:
                    world.at(self._rng.random() * 0.3, arrive_late)
                return
            try:
                action(reply)
            except Exception as error:
                respond("error", error)

        def arrive_late() -> None:
            with contextlib.suppress(Exception):  # there is nobody left to be told
                action(lambda _value: None)

        world.at(self.latency(), arrive)
        try:
            async with asyncio.timeout(timeout_s):
                kind, value = await future
        except TimeoutError:
            raise RequestTimedOutError from None
        if kind == "error":
            raise value
        return value
