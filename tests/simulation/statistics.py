"""Windows, alarms and calibrations in a simulated world, at the level below Faust: the real aggregator, state and table rules.

In: a seed. Out: what was broken. One source log is counted by one worker after another; each writes rows and outputs in pieces,
and may end at any of them. What differs from Kafka: one partition, no network; what is written is there at once, or never, or
(by a zombie) after its successor has begun. Between two workers the changelog may be compacted. Judged against a recount of the
points, and against a worker that nothing disturbs. Every other seed has verdicts, which a plain recount does not know.

    python -m tests.simulation.statistics --seeds 100
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import orjson

from schemas.times import format_time
from streams.rules.detection.detectors import Thresholds
from streams.rules.records import Output
from streams.rules.windows.windows import Span
from streams.settings import Settings
from streams.statistics import aggregator as aggregator_module
from streams.statistics import event_clocks, table
from streams.statistics.aggregator import Aggregator, Released
from streams.statistics.outputs import StatsRecorder
from streams.statistics.state import State
from streams.statistics.table import Recovery, StatsTable
from tests.support.points import compare, newest

BEGIN_MS = 1_795_348_800_000
SPANS: Any = {"minute": Span(60_000, 30_000, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
LOOK_EVERY = 20
"""Points between two looks at the clock. Every third seed has none."""
PIECE = 3
"""Records that reach the broker together; a worker may end between two pieces."""


class Ended(BaseException):
    """The process ends here. No code of the product catches it."""


Arriving = tuple[int, dict[str, Any]]
"""When a point comes (epoch ms), and the point."""


def points_of(rng: random.Random, verdicts: float) -> list[Arriving]:
    """Two hours of three agents: confidence falls and recovers, cost rises, some points are late, a share is judged later on."""
    count = rng.randrange(400, 900)
    step_ms = 7_200_000 // count
    sick = {"agent-0": (0.3, 0.6), "agent-1": (0.5, 0.9)}
    points: list[Arriving] = []
    for index in range(count):
        agent = f"agent-{rng.randrange(3)}"
        begin, end = sick.get(agent, (2.0, 2.0))
        mean = 0.3 if begin <= index / count < end else 0.9
        late_ms = rng.randrange(25_000) if rng.random() < 0.2 else rng.randrange(2_000)
        point: dict[str, Any] = {
            "agentId": agent,
            "patternName": rng.choice(("", "triage")),
            "taskType": "agent",
            "confidence": rng.betavariate(mean * 20, (1 - mean) * 20),
            "success": rng.random() < mean,
            "timestamp": format_time(BEGIN_MS + index * step_ms - late_ms),
            "executionTime": rng.lognormvariate(4, 1),
            "waitTime": 7.0 * (index * 37 % 101),
            "cost": 0.001 * (1 + index % 7) * (8 if mean < 0.9 else 1),
            "taskId": f"t{index}",
        }
        at_ms = BEGIN_MS + index * step_ms + 500
        points.append((at_ms, point))
        if rng.random() < verdicts:
            verdict = {**point, "feedback": True, "success": rng.random() < 0.5}
            points.append((at_ms + rng.randrange(600_000), verdict))
    return sorted(points, key=lambda arriving: arriving[0])


class SimTable(StatsTable):
    """The real rules of rows over a changelog in memory; nothing of Faust runs."""

    def __init__(self, world: World) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._world = world
        self.recovery = Recovery({}, set())
        self._batcher: Any = world
        self._raw_producer = None

    @property
    def data(self) -> Any:  # type: ignore[override]
        """What is in memory."""
        return self._rows

    @property
    def app(self) -> Any:  # type: ignore[override]
        """Only its producer is asked for."""
        return SimpleNamespace(raw_producer=None)


class World:
    """What outlives workers: the source log, the commit, the changelog, what was sent; and the faults."""

    def __init__(self, seed: int, points: Sequence[Arriving], disturbed: bool) -> None:
        self.rng = random.Random(f"{seed}/statistics")
        self.points = points
        self.looks = seed % 3 != 0
        self.now_ms = BEGIN_MS
        self.committed = 0
        self.changelog: list[Output] = []
        self.sent: list[Output] = []
        self.late: list[Output] = []
        """What a worker that was stopped has still to write."""
        self.old = 0
        """How much of the changelog may be compacted."""
        self.deaths = self.zombies = self.compactions = 0
        self._fatal = 0.012 if disturbed else 0.0

    async def send_all(self, batcher: object, producer: object, outputs: Sequence[Output]) -> None:
        """Rows and outputs go to their logs in pieces. The worker may be killed between two, or stopped before the rest."""
        for begin in range(0, len(outputs), PIECE):
            if self.rng.random() < self._fatal:
                if self.rng.random() < 0.4:
                    self.zombies += 1
                    self.late += outputs[begin:]
                self.deaths += 1
                raise Ended
            self.append(outputs[begin : begin + PIECE])
            await asyncio.sleep(0)

    def append(self, outputs: Sequence[Output]) -> None:
        """The broker has them."""
        for output in outputs:
            (self.changelog if output.topic == table.CHANGELOG else self.sent).append(output)

    def wake(self) -> None:
        """The zombie writes the rest of its batch, and learns then that it lost its partition."""
        self.append(self.late)
        self.late = []

    def compact(self) -> None:
        """Of each key only the newest row stays, as far as the log is older than the topic's compaction lag: within that, some
        worker has recovered from it, and has written again what a zombie had overwritten.
        """
        self.compactions += 1
        clean = self.old if self.rng.random() < 0.5 else self.rng.randrange(self.old + 1)
        last = {output.key: place for place, output in enumerate(self.changelog[:clean])}
        self.changelog = [
            output for place, output in enumerate(self.changelog) if place >= clean or last[output.key] == place
        ]
        self.old = 0

    def told(self, topic: str) -> list[dict[str, Any]]:
        """What readers of a topic find, in order."""
        return [orjson.loads(output.value or b"{}") for output in self.sent if output.topic == topic]


class Worker:
    """One life of a worker, from recovery to its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._position = self._end = world.committed
        self.resume_offsets: dict[int, int] = {}
        self.table = SimTable(world)
        self.state = State(table=self.table, spans=SPANS, limits=Thresholds())
        self.aggregator = Aggregator(StatsRecorder(Settings(), "stats"), self._failed)
        nothing: Any = world
        source_log: Any = SimpleNamespace(resume_offsets=self._same_log)
        this: Any = self
        self.aggregator.attach(self.state, self.table, nothing, lambda: this, lambda: nothing, source_log)

    def _failed(self, error: BaseException) -> None:
        raise error

    async def _same_log(self, marks: object) -> dict[int, int]:
        return {}

    # What the aggregator asks its consumer

    def positions(self) -> dict[int, int]:
        """How far it has counted."""
        return {0: self._position}

    async def log_ends(self, source_log: object) -> dict[int, int]:
        """Where the log ends for it."""
        return {0: self._end}

    async def accept(self, message: Any) -> bool:
        """What it read is its own."""
        return True

    async def confirm_ownership(self) -> bool:
        """A worker that was stopped asks before it is: it finds itself the owner."""
        return True

    def done(self, message: Any) -> None:
        """One more is counted."""
        self._position = message.offset + 1

    # Its life

    async def live(self) -> None:
        """Recover, count what is left, a batch at a time, and look at the clock in between. Raises `Ended`."""
        world, rng = self._world, self._world.rng
        rows: list[Any] = [
            SimpleNamespace(key=row.key, value=row.value, headers=tuple(row.headers)) for row in world.changelog
        ]
        wakes_at = rng.randrange(len(world.points) + 1) if world.late else -1
        self.table.recover(rows, self.table.recovery)
        await self.aggregator.load()
        await self.aggregator.write_overtaken()
        world.old = len(world.changelog)
        while self._position < len(world.points):
            if 0 <= wakes_at <= self._position:
                world.wake()
                wakes_at = -1
            await self._batch(min(rng.choice((1, 5, LOOK_EVERY)), LOOK_EVERY - self._position % LOOK_EVERY))
            if world.looks and self._position % LOOK_EVERY == 0:
                await self.aggregator.ask_log_ends()
                await self.aggregator.tick()
            if rng.random() < 0.4:
                world.committed = self._position
        world.wake()
        await self.aggregator.drain()
        world.committed = self._position

    async def _batch(self, most: int) -> None:
        begin = self._position
        batch = self._world.points[begin : begin + most]
        self._end = begin + len(batch)
        for offset, (at_ms, point) in enumerate(batch, begin):
            self._world.now_ms = at_ms
            message: Any = SimpleNamespace(
                value=orjson.dumps(point),
                headers=(),
                timestamp=self._world.now_ms / 1000,
                partition=0,
                offset=offset,
                key=b"",
            )
            await self.aggregator.take(message)
        while self.aggregator.pending:
            await self.aggregator.count_batch()


async def _lives(world: World) -> State:
    """One worker after another, until one has counted everything; its state."""
    for _ in range(500):
        worker = Worker(world)
        try:
            await worker.live()
        except (Ended, Released):
            if world.rng.random() < 0.7:
                world.compact()
        else:
            return worker.state
    raise AssertionError("no worker came to the end")


def run(seed: int, points: Sequence[Arriving], disturbed: bool) -> tuple[World, State]:
    """One world, to its end."""
    world = World(seed, points, disturbed)
    clock = SimpleNamespace(time=lambda: world.now_ms / 1000, monotonic=time.monotonic)
    with (
        patch.object(aggregator_module, "send_all", world.send_all),
        patch.object(table, "send_all", world.send_all),
        patch.object(aggregator_module, "time", clock),
        patch.object(event_clocks, "time", clock),
    ):
        try:
            return world, asyncio.run(_lives(world))
        finally:
            gc.unfreeze()  # workers that ended in the middle exempted what they held from garbage collection
            gc.collect()


def violations(seed: int) -> tuple[list[str], World]:
    """What a seed broke."""
    points = points_of(random.Random(f"{seed}/points"), 0.1 if seed % 2 else 0.0)
    world, state = run(seed, points, disturbed=True)
    sound, sound_state = run(seed, points, disturbed=False)
    mine, theirs = newest(world.told("aggregates")), newest(sound.told("aggregates"))
    found = [
        f"window {key} differs" for key in mine.keys() | theirs.keys() if _same(mine.get(key)) != _same(theirs.get(key))
    ]
    if not seed % 2:
        found += [f"recount: {text}" for text in compare(world.told("aggregates"), (point for _, point in points))]
    found += _alarms(world, sound)
    for agent in ("agent-0", "agent-1", "agent-2"):
        ours, right = state.calibrations(agent), sound_state.calibrations(agent)
        if (ours.count, ours.table()) != (right.count, right.table()):
            found.append(f"calibration of {agent}: {ours.count} outcomes, {right.count} undisturbed")
    if state.counters()["dropped"] != sound_state.counters()["dropped"]:
        found.append("points were dropped that an undisturbed worker counts")
    return found, world


def _same(window: Mapping[str, Any] | None) -> dict[str, Any]:
    """What must be equal of two workers' last words about a window: not how often they spoke of it, or whether it seemed over."""
    return (
        {} if window is None else {name: value for name, value in window.items() if name not in ("revision", "final")}
    )


def _alarms(world: World, sound: World) -> Iterator[str]:
    """No alarm ends that did not begin. Where nobody looked at the clock, they are the same ones as undisturbed: how long a quiet
    agent was waited for depends on when a worker began.
    """
    begun: set[str] = set()
    for alarm in world.told("anomalies"):
        if alarm["state"] == "firing":
            begun.add(alarm["id"])
        elif alarm["id"] not in begun:
            yield f"alarm ended before it began: {alarm['id']}"
    if not world.looks:
        mine, theirs = ({(a["id"], a["state"]) for a in one.told("anomalies")} for one in (world, sound))
        yield from (f"alarm missing: {alarm}" for alarm in sorted(theirs - mine))
        yield from (f"alarm that nobody else has: {alarm}" for alarm in sorted(mine - theirs))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.statistics", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    given = parser.parse_args(arguments)
    broken, deaths, zombies, compactions, points, began = 0, 0, 0, 0, 0, time.process_time()
    for seed in range(given.first, given.first + given.seeds):
        found, world = violations(seed)
        deaths, zombies, compactions = deaths + world.deaths, zombies + world.zombies, compactions + world.compactions
        points += len(world.points)
        if found:
            broken += 1
            print(f"seed {seed}: {len(found)} broken\n    " + "\n    ".join(found[:5]), flush=True)
    print(
        f"statistics: {given.seeds} seeds, {broken} broken; {points} points, {deaths} deaths, {zombies} zombies, "
        f"{compactions} compactions, {time.process_time() - began:.0f} s of CPU"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
