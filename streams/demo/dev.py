"""`parallax dev`: everything on one machine until Ctrl-C, with some traffic to look at.

In: the flags (a Kafka to use, a topic prefix, the web address). Out: addresses, commands to try, a line now and then,
noteworthy moments; an exit code. An existing Kafka receives sample traffic only if it is named on the command line:
without `--bootstrap-servers` a broker is started, and environment and `parallax.toml` are ignored; with it they apply
as usual.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError
from rich.console import Console

from streams.broker.child_broker import ChildBroker, ChildBrokerError
from streams.broker.client import TopicMissing, send_keyed
from streams.broker.embedded import LIMITS, EmbeddedBroker
from streams.broker.kafka import BrokerUnreachable
from streams.broker.local_kafka import LocalKafka, installed_kafka
from streams.broker.noise import quiet_logs
from streams.broker.topics_admin import TopicsError
from streams.demo import summary, traffic
from streams.demo.board import TOPICS, Board, BoardEvent
from streams.demo.children import ChildFailed
from streams.demo.models import BAD_AGENT, KINDS, Condition, rows, split
from streams.demo.stage import Stage, stage
from streams.demo.view import View, make_console
from streams.settings import Settings, SettingsError, load

OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
RATE = 9.0
TASK_TIMEOUT_MS = 30_000
SAY_EVERY_S = 30.0
CYCLE: tuple[tuple[float, Condition, str], ...] = (
    (60.0, "degraded", "falls ill: ever more of its feature lookups fail"),
    (45.0, "failing", "breaks down: it answers 500 or hangs up"),
    (20.0, "healthy", "is repaired; in three minutes it falls ill again"),
    (120.0, "healthy", ""),
)
"""Seconds to wait, the bad agent's next condition, the text to show; repeated."""
WORKER_SETTINGS = {"PARALLAX_STATS__CHECK_INTERVAL": "10s", "PARALLAX_LOG_LEVEL": "warning"}


def run_dev(flags: Mapping[str, Any], embedded: bool = False) -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit code. `flags`: settings from the command line.

    `embedded`: use the embedded broker, even if a Kafka is installed.
    """
    console = make_console()
    try:
        if "bootstrap_servers" in flags:
            return asyncio.run(run_until_signal(load(flags), None, console))
        scripts = None if embedded else installed_kafka()
        broker = EmbeddedBroker() if scripts is None else LocalKafka(scripts)
        settings = load(flags, environ={}, directory=Path(os.devnull).parent)
        return asyncio.run(run_until_signal(settings, broker, console))
    except KeyboardInterrupt:
        sys.stderr.write("parallax: stopped; nothing is left running\n")
        return INTERRUPTED
    except SettingsError as error:
        return _failed(error, USAGE)
    except BrokerUnreachable as error:
        return _failed(error, UNREACHABLE)
    except (ChildFailed, ChildBrokerError, TopicsError, TopicMissing, KafkaError, OSError) as error:
        return _failed(error, FAILED)


def _failed(error: Exception, code: int) -> int:
    sys.stderr.write(f"parallax: {error}\n")
    return code


class _Terminated(Exception):
    """SIGTERM came."""


async def run_until_signal(settings: Settings, broker: ChildBroker | None, console: Console) -> int:
    """Run it all. Ctrl-C cancels (and is raised again by asyncio.run); SIGTERM ends it in the same way, with exit code 0.

    A Kafka client that is starting may swallow the cancel: the event ends what begins after it.
    """
    stopping = asyncio.Event()
    work = asyncio.create_task(_dev(settings, broker, console, stopping))

    def terminate() -> None:
        stopping.set()
        work.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        await work
    except (asyncio.CancelledError, _Terminated):
        if not stopping.is_set():
            raise
    return OK


async def _dev(settings: Settings, broker: ChildBroker | None, console: Console, stopping: asyncio.Event) -> None:
    quiet_logs()

    def say(line: str = "") -> None:
        console.print(f"  {line}".rstrip(), soft_wrap=True)

    console.print("Parallax Streams, all of it on this machine, until Ctrl-C.\n", soft_wrap=True)
    async with (
        stage(say, settings, broker=broker, worker_settings=WORKER_SETTINGS) as scene,
        _registered(scene),
    ):
        _introduce(scene, broker, say)
        await _traffic(scene, console, stopping)


def _introduce(scene: Stage, broker: ChildBroker | None, say: Any) -> None:
    if isinstance(broker, EmbeddedBroker):
        for line in LIMITS:
            say(f"note     {line}")
    say(f"page     {scene.web}/  what happens now, in a browser")
    say(f"query    {scene.web}/api/v1/agents  {scene.web}/metrics")
    options = f" --bootstrap-servers {scene.settings.bootstrap_servers}"
    if scene.settings.topic_prefix != "parallax.":
        options += f" --topic-prefix {scene.settings.topic_prefix}"
    say()
    say("Try in another terminal:")
    for line in summary.where_to_look(None, options):
        say(line)
    parallax = summary.program()
    say(f"agents       {parallax} agents ls{options}")
    say(f"statistics   {parallax} stats {BAD_AGENT}{options}")
    say(f"a task       echo '{_example()}' | {parallax} submit - --wait{options}")
    say()


def _example() -> str:
    """A task to send by hand."""
    site = rows()[0][0]
    task = {"id": "mine-1", "type": "agent", "target": "random-forest", "payload": {"data": site}}
    return json.dumps(task, separators=(",", ":"))


@contextlib.asynccontextmanager
async def _registered(scene: Stage) -> AsyncIterator[None]:
    """Unregisters the demo's agents at the end, for a Kafka that stays."""
    try:
        yield
    finally:
        if not scene.own_broker:
            await send_keyed(scene.settings, "agents", [(agent_id.encode(), None) for agent_id in scene.agents])


async def _traffic(scene: Stage, console: Console, stopping: asyncio.Event) -> None:
    """Send, watch and degrade an agent now and then, until cancelled or a failure. Raises `_Terminated`."""
    unseen = split(rows())[1]
    ids = [kind.agent_id for kind in KINDS.values()]
    board = Board([label for _, label in unseen], ids)
    view = View(console, board, None, live=False)
    run = f"dev-{random.randrange(16**8):08x}"
    stream = traffic.tasks(run, unseen, ids, itertools.count(), TASK_TIMEOUT_MS)

    async def sent(count: int) -> None:
        board.sent = count

    async def watch(read: traffic.Read) -> None:
        while True:
            for topic, value in await read():
                if (moment := board.take(topic, value)) is not None:
                    view.tell(moment)
            view.tick(SAY_EVERY_S)

    async def terminated() -> None:
        await stopping.wait()
        raise _Terminated

    async with traffic.subscribed(scene.settings, TOPICS, from_beginning=scene.own_broker) as read:
        view.head(SAY_EVERY_S)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(terminated())
                group.create_task(traffic.send(scene.settings, stream, RATE, sent))
                group.create_task(_ill_by_turns(scene, board, view))
                group.create_task(scene.watch())
                group.create_task(watch(read))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None


async def _ill_by_turns(scene: Stage, board: Board, view: View) -> None:
    while True:
        for wait_s, condition, what in CYCLE:
            await asyncio.sleep(wait_s)
            if what:
                view.tell(board.add_moment(BoardEvent(time.time_ns() // 1_000_000, "demo", BAD_AGENT, what)))
            await scene.turn(BAD_AGENT, condition)
