"""CPU per HTTP call, against the instant agent in a process of its own. Part of `make bench`.

    python -m tests.bench.http_call [--calls 20000] [--in-flight 100] [--agents 1]

Four rows in one run, CPU microseconds per call of this process: the whole way of a task (bytes validated, guarded call, answer
validated), the transport alone (answer validated), a bare call over the same pool, and a bare aiohttp call. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import orjson
import uvloop
import yarl

from agents_io.errors import AgentError
from agents_io.http.pooled_transport import PooledTransport
from agents_io.http.rules.http1 import request_head
from agents_io.protocols.http.transport import HttpTransport
from agents_io.transport import Answer, Call
from schemas.codec import dumps
from schemas.messages import AgentRegistration, Limits
from streams.dispatch.callers import CallerFactory
from streams.dispatch.task_run import TaskRun, read_task
from streams.rules.source_record import SourceRecord
from streams.settings import Settings
from streams.worker import settle_memory

PAYLOAD = {"task": "classify", "data": {"text": "x" * 240}}
BODY = orjson.dumps(PAYLOAD)


async def measure(name: str, calls: int, in_flight: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Run `calls` calls, `in_flight` at once, and print what they cost."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(one(number) for number in range(in_flight)))  # connections and caches warm
    settle_memory()  # as a worker does
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:30} {in_flight:4} in flight {calls / wall:8.0f}/s {cpu / calls * 1e6:7.1f} us CPU a call")


class Whole:
    """From a task's bytes to its answer: what dispatch does around a call, without Kafka."""

    def __init__(self, fleet: list[AgentRegistration], transport: HttpTransport) -> None:
        self._settings = Settings()
        factory = CallerFactory(settings=self._settings, transport=transport, rng=random.Random(1))
        self._callers = [factory.make(agent, self) for agent in fleet]
        self._ended: dict[TaskRun, asyncio.Future[Answer | AgentError]] = {}

    async def call(self, number: int) -> None:
        """One task."""
        caller = self._callers[number % len(self._callers)]
        loop = asyncio.get_running_loop()
        value = dumps({"id": f"t{number}", "type": "agent", "target": caller.agent.id, "payload": PAYLOAD})
        record = SourceRecord("tasks", 0, number, None, value, ())
        run = read_task(record, loop.time(), time.time_ns() // 1_000_000, self._settings)
        ended = self._ended[run] = loop.create_future()
        caller.submit(run)
        answer = await ended
        assert isinstance(answer, Answer), answer

    def on_finished(self, run: TaskRun, outcome: Answer | AgentError) -> None:
        """Its end."""
        self._ended.pop(run).set_result(outcome)

    def on_first_call(self, run: TaskRun) -> None:
        """Its first call."""

    def on_retry(self, run: TaskRun, delay_s: float) -> None:
        """Never, with this agent."""

    def on_circuit(self, agent_id: str, transition: object) -> None:
        """Never, with this agent."""


async def run(calls: int, in_flight: int, agents: int, port: int) -> None:
    """Measure our transport, our pool and bare aiohttp."""
    transport = HttpTransport(PooledTransport(max_connections=in_flight))
    limits = Limits(max_requests=100_000_000, max_concurrency=in_flight)
    endpoint = f"http://127.0.0.1:{port}"
    fleet = [AgentRegistration(id=f"a{n}", endpoint=endpoint, limits=limits) for n in range(agents)]

    async def ours(number: int) -> None:
        key = f"task-{number}"
        await transport.call(fleet[number % agents], Call(key, key, BODY, 30.0, (("traceparent", "00-0-0-01"),)))

    whole = Whole(fleet, transport)
    await measure("task -> guarded call -> answer", calls, in_flight, whole.call)
    await measure("HttpTransport alone", calls, in_flight, ours)
    await transport.close()
    pooled = PooledTransport(max_connections=in_flight)
    origin = pooled.origin(yarl.URL(endpoint))
    head = request_head(b"POST", b"/analyze", [(b"Host", b"agent"), (b"Content-Length", b"%d" % len(BODY))])

    async def prebuilt(number: int) -> None:
        reply = await pooled.fetch(origin, head, BODY, 100_000, 1000)
        orjson.loads(reply.body)

    await measure("our pool, nothing validated", calls, in_flight, prebuilt)
    await pooled.aclose()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def bare(number: int) -> None:
            async with session.post(f"http://127.0.0.1:{port}/analyze", data=BODY) as response:
                orjson.loads(await response.read())

        await measure("aiohttp, nothing validated", calls, in_flight, bare)


def main() -> None:
    """Start the agent, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--agents", type=int, default=1)
    options = parser.parse_args()
    agent = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("instant_agent.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert agent.stdout is not None
        port = int(agent.stdout.readline())
        uvloop.run(run(options.calls, options.in_flight, options.agents, port))
    finally:
        agent.terminate()
        agent.wait(10)


if __name__ == "__main__":
    main()
