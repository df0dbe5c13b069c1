"""What a client costs: CPU a `run` call, with the pipeline in another process that answers at once.

The answering process stands in for a worker: it reads `tasks` and writes a result for each. The figure is the client's alone.

    python -m tests.bench.client [--calls 20000] [--concurrency 200] [--bootstrap-servers HOST:PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streams import Client
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.kafka import KafkaCluster

PARTITIONS = 8


async def answer_all(servers: str, prefix: str) -> None:
    """Write a success for every task, until killed."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=None, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=2)
    await consumer.start()
    await producer.start()
    consumer.assign([TopicPartition(f"{prefix}tasks", number) for number in range(PARTITIONS)])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async for record in consumer:
        task = orjson.loads(record.value)
        result = {
            "taskId": task["id"],
            "status": "success",
            "result": task["payload"],
            "confidence": 0.9,
            "agentId": task["target"],
            "executionTime": 1.5,
            "retries": 0,
            "cached": False,
            "timestamp": "2026-11-29T00:00:00.000Z",
            "metadata": {},
        }
        await producer.send(f"{prefix}results", orjson.dumps(result), key=task["id"].encode())


def cpu_s() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(servers: str, prefix: str, calls: int, concurrency: int) -> dict[str, float]:
    """CPU and time of so many calls."""
    async with Client(servers, topic_prefix=prefix) as client:
        await asyncio.gather(*(client.run("a1", {"n": n}) for n in range(100)))

        left = iter(range(calls))

        async def caller() -> None:
            for number in left:
                result = await client.run("a1", {"n": number, "task": "look"})
                assert result.value["n"] == number

        cpu, begun = cpu_s(), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        took, used = time.perf_counter() - begun, cpu_s() - cpu
        cpu = cpu_s()
        found = 0
        async for _ in client.map("a1", ({"n": n} for n in range(calls)), concurrency=concurrency):
            found += 1
        assert found == calls
        mapped = cpu_s() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "calls": calls,
        "callsPerS": round(calls / took),
        "cpuUsPerRun": round(used / calls * 1e6, 1),
        "cpuUsPerMap": round(mapped / calls * 1e6, 1),
        "peakMiB": round(peak),
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--bootstrap-servers", default="")
    parser.add_argument("--answer", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    prefix = options.answer or f"bench{os.getpid()}."
    if options.answer:
        asyncio.run(answer_all(options.bootstrap_servers, prefix))
        return
    cluster = None if options.bootstrap_servers else KafkaCluster(brokers=1, measured=True).start()
    servers = options.bootstrap_servers or (cluster.bootstrap_servers if cluster else "")
    command = [sys.executable, "-m", "tests.bench.client", "--answer", prefix, "--bootstrap-servers", servers]
    child = None
    try:
        asyncio.run(apply(Settings(bootstrap_servers=servers, topic_prefix=prefix), PARTITIONS))
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        print(json.dumps(asyncio.run(measure(servers, prefix, options.calls, options.concurrency))))
    finally:
        if child is not None:
            child.send_signal(signal.SIGKILL)
            child.wait()
        if cluster is not None:
            cluster.stop()


if __name__ == "__main__":
    main()
