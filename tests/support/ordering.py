"""Tasks with ordering keys, for tests of dispatch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from agents_io.errors import ServerError
from agents_io.transport import Answer
from streams.dispatch.ordered_key import OrderedKey
from streams.dispatch.task_run import TaskRun
from streams.rules.records import Output
from tests.support.dispatching import AGENT, Dispatching
from tests.support.memory import held


@contextmanager
def handlers() -> Iterator[Callable[..., Dispatching]]:
    """Makes handlers whose agent takes ten calls at once; closed at the end."""
    made: list[Dispatching] = []

    def build(*args: Any, **fields: Any) -> Dispatching:
        made.append(Dispatching(*args, **fields))
        made[-1].register(**AGENT, limits={"maxRequests": 10_000, "windowMs": 1000, "maxConcurrency": 10})
        return made[-1]

    yield build
    for one in made:
        one.handler.close()


def take(one: Dispatching, offset: int, key: str | None = "k", *, source: str = "tasks", **metadata: Any) -> None:
    """A task with an ordering key, unlike all others."""
    given = metadata | ({} if key is None else {"orderingKey": key})
    one.take(offset, source=source, payload={"n": f"{source}{offset}"}, metadata=given, id=f"{source}-{offset}")


def moved(one: Dispatching, offset: int, source: str = "tasks") -> Output:
    """The record that took this one's place."""
    [[output]] = [outputs for at, number, outputs in one.partition.ended if (at, number) == (source, offset)]
    assert output.topic == "parked"
    return output


def back(one: Dispatching, output: Output, offset: int) -> None:
    """A relocated record is read."""
    one.take(offset, output.value, source="parked", headers=tuple(output.headers))


def nothing_left(one: Dispatching) -> bool:
    """Every task has ended, and no key is remembered."""
    if one.memory.count or one.resting:
        return False
    return not (held(one.handler, TaskRun) or held(one.handler, OrderedKey))


async def all_gone(one: Dispatching) -> None:
    """Return once nothing is left. Raises TimeoutError."""
    for _ in range(100):
        if nothing_left(one):
            return
        await asyncio.sleep(0.5)
    raise TimeoutError("tasks or keys are left")


class Conversations:
    """Tasks of three keys and of none, whose agent checks on each call that no other of its key is under way."""

    def __init__(self, one: Dispatching, rng: random.Random) -> None:
        self.one = one
        self.rng = rng
        self.running: dict[str, str] = {}
        self.called: dict[str, list[int]] = {}
        self.relocated = 0
        self.beside: list[tuple[str, str]] = []

    async def call(self, agent: Any, call: Any) -> Answer:
        """One call at the agent; some fail."""
        asked = orjson.loads(call.body)
        key, number = asked["key"], asked["number"]
        if key is not None:
            if key in self.running:
                self.beside.append((call.task_id, self.running[key]))
            self.running[key] = call.task_id
            numbers = self.called.setdefault(key, [])
            if number not in numbers[-1:]:
                numbers.append(number)
        try:
            await asyncio.sleep(self.rng.random() * 0.2)
        finally:
            self.running.pop(key, None)
        if self.rng.random() < 0.3:
            raise ServerError("500")
        return Answer("ok", 0.9)

    def send(self, offset: int) -> None:
        """One task."""
        key = self.rng.choice(("a", "b", "c", None))
        metadata: dict[str, Any] = {"priority": self.rng.choice((0, 0, 5)), "cache": False}
        metadata |= {} if key is None else {"orderingKey": key}
        metadata |= {"expiresIn": self.rng.choice((500, 3000))} if self.rng.random() < 0.3 else {}
        self.one.take(offset, payload={"key": key, "number": offset}, metadata=metadata)

    def disturb(self, offset: int) -> None:
        """Cancel one, or have the oldest ones relocated."""
        fate = self.rng.random()
        if fate < 0.1:
            name = f"t{self.rng.randrange(offset + 1)}"
            self.one.cancel_requests[name] = "unwanted"
            self.one.handler.cancel(name)
        elif fate < 0.2:
            ended = {(source, number) for source, number, _ in self.one.partition.ended}
            oldest = sorted(
                number for source, number in self.one.log if source == "tasks" and ("tasks", number) not in ended
            )
            self.one.handler.unblock("tasks", oldest[: self.rng.choice((1, 10, 100))])

    def read_relocated(self) -> None:
        """What was written to `parked` comes back."""
        for _, _, outputs in list(self.one.partition.ended):
            for output in [output for output in outputs if output.topic == "parked"]:
                outputs.remove(output)
                self.relocated += 1
                back(self.one, output, 1000 + self.relocated)
