"""The floor: a bare aiokafka loop that calls an agent and produces one result, with no guarantee at all.

In: tasks. Out: one result a task. aiohttp, uvloop, a bounded number of calls in flight, offsets auto-committed as they are
read: it loses what is in flight when it dies. It is what a competent engineer writes on the first afternoon.

    python tests/bench/peers/floor.py BOOTSTRAP PREFIX ENDPOINT CONCURRENCY LINGER_MS
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


async def main(bootstrap: str, prefix: str, endpoint: str, concurrency: int, linger_ms: int) -> None:
    """Until it is killed."""
    consumer = AIOKafkaConsumer(
        f"{prefix}tasks",
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}floor",
        auto_offset_reset="earliest",
        session_timeout_ms=60_000,  # the bench stops this process while it produces
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=linger_ms)
    slots = asyncio.Semaphore(concurrency)
    running: set[asyncio.Task[None]] = set()
    async with consumer, producer, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def call(value: bytes) -> None:
            task = orjson.loads(value)
            body = orjson.dumps(task["payload"])
            async with session.post(f"{endpoint}/analyze", data=body) as response:
                answer = orjson.loads(await response.read())
            result = orjson.dumps({"taskId": task["id"], "status": "success", **answer})
            await producer.send(f"{prefix}results", result, key=task["id"].encode())
            slots.release()

        print("ready", flush=True)
        async for record in consumer:
            await slots.acquire()
            task = asyncio.create_task(call(record.value))
            running.add(task)
            task.add_done_callback(running.discard)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4], *map(int, sys.argv[4:6])))
