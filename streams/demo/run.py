"""The main job once, on real input: `make demo`.

Out: a report on stdout, and an exit code: 0 if every task has its result, the degraded agent raised an anomaly and its
circuit opened; 1 with the reason otherwise; 130 after Ctrl-C. It leaves no process running and no file on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.errors import KafkaError
from rich.console import Console

from streams.broker.child_broker import ChildBrokerError
from streams.broker.embedded import EmbeddedBroker
from streams.broker.kafka import BrokerUnreachable
from streams.broker.noise import quiet_logs
from streams.broker.topics_admin import TopicsError
from streams.demo import summary, traffic
from streams.demo.board import TOPICS, Board, BoardEvent
from streams.demo.children import ChildFailed
from streams.demo.models import BAD_AGENT, KINDS, Condition, rows, split
from streams.demo.stage import Stage, stage
from streams.demo.view import View, make_console
from streams.settings import Settings

TASK_TIMEOUT_MS = 20_000
"""Long enough for a task to wait while its agent's circuit is open and tried again."""
RESULTS_GRACE_S = 20.0
"""How long after its deadline the last result may take: retries, a slow machine."""
STATISTICS_GRACE_S = 10.0
WHOLE_S = 115.0
"""The demo gives up after this time."""

WORKER_SETTINGS = {
    "PARALLAX_SESSION_TIMEOUT": "6s",  # the embedded broker holds a group's first join for half of it
    "PARALLAX_STATS__CHECK_INTERVAL": "10s",
    "PARALLAX_LOG_LEVEL": "warning",
}

WHAT = (
    "Parallax Streams carries tasks from Kafka to AI agents and brings back results, confidence, statistics and alarms.",
    "Here three real classifiers judge web sites they have never seen; half way one of them falls ill. Watch it be noticed.",
)


@dataclass(frozen=True, slots=True)
class Script:
    """How much is sent, how fast, and when the bad agent changes (shares of what is sent). `rows`: of the data set;
    None: all.
    """

    rows: int | None = None
    rounds: int = 3
    rate: float = 220.0
    degrade_at: float = 0.40
    fail_at: float = 0.62
    heal_at: float = 0.80

    def turns(self, total: int) -> list[tuple[int, Condition, str]]:
        """(number of tasks sent, condition, text to show), in order."""
        return [
            (int(total * self.degrade_at), "degraded", "falls ill: ever more of its feature lookups fail"),
            (int(total * self.fail_at), "failing", "breaks down: it answers 500 or hangs up"),
            (int(total * self.heal_at), "healthy", "is repaired"),
        ]


class DemoFailed(Exception):
    """An expected event did not happen. One line."""


class Demo:
    """One run on a running stage."""

    def __init__(self, scene: Stage, console: Console, script: Script) -> None:
        unseen = split(rows())[1][: script.rows]
        self._scene = scene
        self._script = script
        self._rows = unseen
        self._ids = [kind.agent_id for kind in KINDS.values()]
        self.total = len(unseen) * script.rounds * len(self._ids)
        self._turns = script.turns(self.total)
        self.board = Board([label for _, label in unseen], self._ids)
        self.view = View(console, self.board, self.total)
        self.seconds = 0.0

    async def play(self) -> None:
        """Send everything, wait until all is answered and counted. Raises `DemoFailed` and `ChildFailed`."""
        async with traffic.subscribed(self._scene.settings, TOPICS, from_beginning=True) as read:
            self.view.head()
            with self.view:
                sender = asyncio.create_task(self._send())
                alive = asyncio.create_task(self._scene.watch())
                try:
                    await self._watch(read, sender, alive)
                finally:
                    for task in (sender, alive):
                        task.cancel()
                    await asyncio.gather(sender, alive, return_exceptions=True)

    async def _send(self) -> None:
        stream = traffic.tasks("demo", self._rows, self._ids, range(self._script.rounds), TASK_TIMEOUT_MS)
        await traffic.send(self._scene.settings, stream, self._script.rate, self._sent)

    async def _sent(self, count: int) -> None:
        self.board.sent = count
        while self._turns and count >= self._turns[0][0]:
            _, condition, what = self._turns.pop(0)
            self._tell(BoardEvent(time.time_ns() // 1_000_000, "demo", BAD_AGENT, what))
            await self._scene.turn(BAD_AGENT, condition)

    def _tell(self, moment: BoardEvent) -> None:
        self.view.tell(self.board.add_moment(moment))

    async def _watch(self, read: traffic.Read, sender: asyncio.Task[None], alive: asyncio.Task[None]) -> None:
        """Read until everything has come; fail if it does not come in time."""
        clock = time.monotonic
        answer_by = deadline = clock() + WHOLE_S
        answered_at: float | None = None
        while True:
            for topic, value in await read():
                if (moment := self.board.take(topic, value)) is not None:
                    self.view.tell(moment)
            self.view.tick()
            if alive.done():
                alive.result()
            if not sender.done():
                answer_by = min(deadline, clock() + TASK_TIMEOUT_MS / 1000 + RESULTS_GRACE_S)
            else:
                sender.result()
            if sender.done() and self.board.results >= self.total:
                answered_at = answered_at or clock()
                self.seconds = self.seconds or self.view.elapsed_s
                if self.board.counted == self.board.points or clock() > answered_at + STATISTICS_GRACE_S:
                    return
            elif clock() > answer_by:
                return

    def check(self) -> list[str]:
        """Expected events that did not happen; empty if all did."""
        board, missing = self.board, []
        if board.results < self.total:
            missing.append(f"{self.total - board.results:,} of {self.total:,} tasks have no result")
        if not board.fired(BAD_AGENT):
            missing.append(f"no anomaly was detected on {BAD_AGENT}")
        if not board.events["circuit:open"]:
            missing.append(f"the circuit of {BAD_AGENT} did not open")
        if board.counted != board.points:
            missing.append(f"the windows hold {board.counted:,} data points, the topic {board.points:,}")
        return missing


async def run_demo(console: Console, script: Script) -> Board:
    """Start everything, run once, stop everything; returns the board. Raises `DemoFailed` and errors of the parts."""
    for line in (*WHAT, ""):
        console.print(line, soft_wrap=True)
    started = time.monotonic()
    quiet_logs()

    def say(line: str) -> None:
        console.print("  " + line, soft_wrap=True)

    async with stage(say, Settings(web_port=0), broker=EmbeddedBroker(), worker_settings=WORKER_SETTINGS) as scene:
        demo = Demo(scene, console, script)
        sites = f"{len(demo.board.labels)} sites of river's Phishing data set that no agent has learnt"
        say(f"tasks    {demo.total:,}: {sites}, each {script.rounds} times to each agent")
        say("note     this broker has no transactions: results are at-least-once here, exactly-once on Kafka")
        console.print(f"  (all up in {time.monotonic() - started:.1f} s)\n")
        await demo.play()
        missing = demo.check()
        summary.show(console, demo.board, demo.seconds)
    if missing:
        raise DemoFailed("; ".join(missing))
    return demo.board


def _arguments(arguments: Sequence[str] | None) -> Script:
    whole = Script()
    parser = argparse.ArgumentParser(prog="python -m streams.demo", description="The main job once, on real input.")
    parser.add_argument("--rows", type=int, default=whole.rows, help="sites of the data set; default all")
    parser.add_argument("--rounds", type=int, default=whole.rounds, help="how often each is sent; default %(default)s")
    parser.add_argument("--rate", type=float, default=whole.rate, help="tasks a second; default %(default)s")
    given = parser.parse_args(arguments)
    return Script(rows=given.rows, rounds=given.rounds, rate=given.rate)


async def _until_told(console: Console, script: Script) -> None:
    """Ends on SIGTERM as on Ctrl-C: everything is stopped first."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run_demo(console, script)


def main(arguments: Sequence[str] | None = None) -> int:
    script = _arguments(arguments)
    for name in [name for name in os.environ if name.startswith("PARALLAX_")]:
        del os.environ[name]  # only of this process: the demo is the same for everyone
    try:
        asyncio.run(_until_told(make_console(), script))
    except KeyboardInterrupt:
        sys.stderr.write("demo: stopped; nothing is left running\n")
        return 130
    except asyncio.CancelledError:
        sys.stderr.write("demo: terminated; nothing is left running\n")
        return 143
    except (
        DemoFailed,
        ChildFailed,
        ChildBrokerError,
        BrokerUnreachable,
        TopicsError,
        KafkaError,
        OSError,
    ) as error:
        sys.stderr.write(f"demo failed: {error}\n")
        return 1
    return 0
