"""FastStream: calls an agent for each task and produces one result. Acknowledges first, as it does with many workers.

    python tests/bench/peers/faststream_peer.py BOOTSTRAP PREFIX ENDPOINT CONCURRENCY LINGER_MS

Runs in an environment of its own (`faststream.txt`). Settings that are not defaults, and why: no log line for each record;
orjson, uvloop and the producer's linger as in the floor; results are not waited for, as in the floor. Runs until it is killed.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import orjson
import uvloop
from faststream import FastStream
from faststream.kafka import KafkaBroker


async def main(bootstrap: str, prefix: str, endpoint: str, concurrency: int, linger_ms: int) -> None:
    """Until it is killed."""
    broker = KafkaBroker(bootstrap, acks="all", linger_ms=linger_ms, logger=None)
    connector = aiohttp.TCPConnector(limit=concurrency)

    async with aiohttp.ClientSession(connector=connector) as session:

        @broker.subscriber(
            f"{prefix}tasks",
            group_id=f"{prefix}peer",
            auto_offset_reset="earliest",
            session_timeout_ms=60_000,  # the bench stops this process while it produces
            max_workers=concurrency,
        )
        async def call(task: dict[str, Any]) -> None:
            async with session.post(f"{endpoint}/analyze", data=orjson.dumps(task["payload"])) as response:
                answer = orjson.loads(await response.read())
            result = orjson.dumps({"taskId": task["id"], "status": "success", **answer})
            await broker.publish(result, f"{prefix}results", key=task["id"].encode(), no_confirm=True)

        app = FastStream(broker, logger=None)
        app.after_startup(lambda: print("ready", flush=True))
        await app.run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4], *map(int, sys.argv[4:6])))
