"""CPU per call of the HTTP transport, validation included, against the instant agent in a process of its own.

    .venv/bin/python tests/bench/http_call.py [--calls 20000] [--in-flight 100] [--agents 1]

Prints calls per second and CPU microseconds per call of this process, beside a bare aiohttp call in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import orjson
import uvloop

from agents_io.http_transport import HttpTransport
from agents_io.transport import Call
from schemas.messages import AgentRegistration

BODY = orjson.dumps({"task": "classify", "data": {"text": "x" * 240}})


async def measure(name: str, calls: int, in_flight: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Run `calls` calls, `in_flight` at once, and print what they cost."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(one(number) for number in range(in_flight)))  # connections and caches warm
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:28} {in_flight:4} in flight {calls / wall:8.0f}/s {cpu / calls * 1e6:7.1f} us CPU a call")


async def run(calls: int, in_flight: int, agents: int, port: int) -> None:
    """Measure our transport and bare aiohttp."""
    transport = HttpTransport(max_connections=in_flight)
    fleet = [AgentRegistration(id=f"a{n}", endpoint=f"http://127.0.0.1:{port}") for n in range(agents)]

    async def ours(number: int) -> None:
        key = f"task-{number}"
        await transport.call(fleet[number % agents], Call(key, key, BODY, 30.0, (("traceparent", "00-0-0-01"),)))

    await measure("HttpTransport", calls, in_flight, ours)
    await transport.close()
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
