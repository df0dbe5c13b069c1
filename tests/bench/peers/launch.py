"""Starts the peers of the benches: other systems that call an agent for each task and produce one result, without our guarantees.

In: a peer's name, a broker, a prefix of topics, an agent. Out: its process, which consumes already. A peer that cannot run here
is a `RigError` whose message says what is missing. Jars and environments are fetched once into `.cache/`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.java import CACHE, maven_jars, tool
from tests.support.python_env import environment
from tests.support.rig import Process
from tests.support.rig_error import RigError

HERE = Path(__file__).parent
CONCURRENCY = 100
"""Calls in flight of every peer."""
PARALLEL_CONSUMER = "0.5.3.3"
JAVA_OPTIONS = ["-Xms256m", "-Xmx256m", "-XX:+UseSerialGC"]
"""The collector of containers this small; G1 took more CPU and 80 MiB more."""
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>io.parallax.tests</groupId>
  <artifactId>parallel-consumer-peer</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>io.confluent.parallelconsumer</groupId>
      <artifactId>parallel-consumer-vertx</artifactId>
      <version>{PARALLEL_CONSUMER}</version>
    </dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True)
class Peer:
    """`command`: from its common arguments to the command line. `warm_tasks`: to process before CPU counts (JIT)."""

    title: str
    command: Callable[[list[str]], list[str]]
    warm_tasks: int = 0


def _floor(arguments: list[str]) -> list[str]:
    return [sys.executable, str(HERE / "floor.py"), *arguments]


def _faststream(arguments: list[str]) -> list[str]:
    text = (HERE / "faststream.txt").read_text("utf-8")
    packages = [line for line in text.splitlines() if line and not line.startswith("#")]
    home = CACHE / "bench" / f"faststream-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return [str(environment(home, packages)), str(HERE / "faststream_peer.py"), *arguments]


def _parallel_consumer(order: str) -> Callable[[list[str]], list[str]]:
    def command(arguments: list[str]) -> list[str]:
        java = tool("java", "openjdk-17-jre-headless")
        classpath = f"{_compiled()}:{_jars()}/*"
        common, (concurrency, linger_ms) = arguments[:3], arguments[3:]
        return [java, *JAVA_OPTIONS, "-cp", classpath, "ParallelConsumerPeer", *common, order, concurrency, linger_ms]

    return command


def _jars() -> Path:
    return maven_jars(f"parallel-consumer-{PARALLEL_CONSUMER}", POM)


def _compiled() -> Path:
    """The directory of the peer's classes; compiled again when the source changes."""
    source = HERE / "ParallelConsumerPeer.java"
    classes = CACHE / "bench" / f"parallel-consumer-{hashlib.sha256(source.read_bytes()).hexdigest()[:10]}"
    if not (classes / "ParallelConsumerPeer.class").exists():
        javac = tool("javac", "openjdk-17-jdk-headless")
        command = [javac, "-cp", f"{_jars()}/*", "-d", str(classes), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise RigError(f"javac failed:\n{done.stderr[-2000:]}")
    return classes


JVM_WARM_TASKS = 40_000
"""20,000 were too few: the 4,000 tasks after them took 230 us of CPU each; after 30,000, about 90."""
PEERS: dict[str, Peer] = {
    "floor": Peer("bare aiokafka loop + aiohttp: 1 output, loses what is in flight", _floor),
    "parallel-consumer": Peer(
        "Parallel Consumer + Vert.x, UNORDERED: 1 output, at least once",
        _parallel_consumer("UNORDERED"),
        JVM_WARM_TASKS,
    ),
    "parallel-consumer-key": Peer(
        "Parallel Consumer + Vert.x, KEY: 1 output, at least once", _parallel_consumer("KEY"), JVM_WARM_TASKS
    ),
    "faststream": Peer("FastStream, max_workers: 1 output, acknowledges first", _faststream),
}


def start_peer(name: str, bootstrap: str, prefix: str, endpoint: str, linger_ms: int) -> Process:
    """A peer that is ready. Raises `RigError` when it cannot run here."""
    arguments = [bootstrap, prefix, endpoint, str(CONCURRENCY), str(linger_ms)]
    process = Process(PEERS[name].command(arguments))
    try:
        process.line(60)
    except AssertionError as error:
        raise RigError(f"{name} ended before it was ready (its log: TEST_WORKER_LOG=FILE)") from error
    return process
