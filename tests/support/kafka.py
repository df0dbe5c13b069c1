"""Real Apache Kafka for tests and benches: one or three KRaft brokers from jars, on free loopback ports.

In: a number of brokers. Out: their address, and ways to kill, pause and restart each. The jars come through Maven into
`.cache/` (or from `$PARALLAX_KAFKA_JARS`). Data lies in a temporary directory that goes with `stop`; the JVMs die with the
process that started them. Nothing here skips a test: a missing Java is an error.

`python -m tests.support.kafka [1|3]` runs a cluster until Ctrl-C and prints its address; `fetch` only fetches the jars.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.broker.processes import free_port, tied_to_parent
from tests.support.java import maven_jars, tool
from tests.support.rig_error import RigError

VERSION = os.environ.get("PARALLAX_KAFKA_VERSION", "4.1.1")
JARS_ENV = "PARALLAX_KAFKA_JARS"
READY_TIMEOUT_S = 90
FORMAT_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
SHUT_DOWN_TIMEOUT_S = 60
MAX_RECORD_BYTES = 12 * 1024 * 1024

# Before 4.0 Kafka brings a logger of its own, and which of two is taken is up to the order of files.
LOGGING = "<exclusions><exclusion><groupId>org.slf4j</groupId><artifactId>slf4j-reload4j</artifactId></exclusion></exclusions>"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>io.parallax.tests</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>{LOGGING}</dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version>{LOGGING}</dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


class KafkaRigError(RigError):
    """The brokers cannot do their work; the message says what is missing or what a broker said last."""


def jars() -> Path:
    """The directory of Kafka's jars. Raises `RigError`."""
    given = os.environ.get(JARS_ENV)
    if given:
        if not any(Path(given).glob("kafka_2.13-*.jar")):
            raise KafkaRigError(f"{JARS_ENV}={given}: no kafka_2.13-*.jar in there")
        return Path(given)
    return maven_jars(f"kafka-{VERSION}", POM)


@dataclass
class Broker:
    node: int
    port: int
    controller_port: int
    home: Path
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        return self.home / "kafka.log"


SHORT_LIVED = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


@dataclass
class KafkaCluster:
    """`with KafkaCluster(brokers=1) as cluster: cluster.bootstrap_servers`. Broker numbers count from 0. Synchronous."""

    brokers: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    """More lines for every broker's server.properties."""
    format_options: list[str] = field(default_factory=list)
    """More for the tool that formats the storage: users, say."""
    java_options: list[str] = field(default_factory=list)
    measured: bool = False
    """Whether figures are taken of it: then Java compiles with all it has, which costs more than a short life is worth."""
    plugins: list[Path] = field(default_factory=list)
    """Directories of compiled classes for the brokers: a policy, say."""
    nodes: list[Broker] = field(default_factory=list, init=False)
    home: Path | None = field(default=None, init=False)
    _cluster_id: str = field(default="", init=False)

    @property
    def bootstrap_servers(self) -> str:
        """All brokers' addresses, also of those that are down."""
        return ",".join(node.address for node in self.nodes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the brokers that run."""
        return [node.process.pid for node in self.nodes if node.process is not None and node.running]

    def start(self) -> KafkaCluster:
        """Format, launch, wait until every broker is in the cluster. Raises `RigError`."""
        if self.nodes:
            raise KafkaRigError("the cluster is already running")
        java = tool("java", "openjdk-17-jre-headless")
        classpath = ":".join([f"{jars()}/*", *map(str, self.plugins)])
        self.home = Path(tempfile.mkdtemp(prefix="parallax-kafka-"))
        # One id in 64 begins with a dash, which an option of its own would be taken for.
        self._cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        self.nodes = [
            Broker(number + 1, free_port(), free_port(), self.home / str(number)) for number in range(self.brokers)
        ]
        try:
            for node in self.nodes:
                (node.home / "data").mkdir(parents=True)
                (node.home / "server.properties").write_text(self.properties(node), "utf-8")
            self._format(java, classpath)
            for node in self.nodes:
                self._launch(node, java, classpath)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def properties(self, node: Broker) -> str:
        replicas = min(3, self.brokers)
        in_sync = 2 if self.brokers >= 3 else 1
        lines = {
            "process.roles": "broker,controller",
            "node.id": node.node,
            "controller.quorum.voters": ",".join(f"{n.node}@127.0.0.1:{n.controller_port}" for n in self.nodes),
            "listeners": f"PLAINTEXT://{node.address},CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{node.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": node.home / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "message.max.bytes": MAX_RECORD_BYTES,
            "replica.fetch.max.bytes": MAX_RECORD_BYTES,
            # A killed broker is noticed after this; small, but above the pauses of a busy machine.
            "broker.heartbeat.interval.ms": 1000,
            "broker.session.timeout.ms": 6000,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            "num.io.threads": 4,
            **self.settings,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _format(self, java: str, classpath: str) -> None:
        """Write each broker's storage header; all at once, since each is a JVM start."""
        tool = [java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", classpath, "kafka.tools.StorageTool", "format"]
        running = [
            subprocess.Popen(
                [
                    *tool,
                    f"--cluster-id={self._cluster_id}",
                    "-c",
                    str(node.home / "server.properties"),
                    *self.format_options,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for node in self.nodes
        ]
        try:
            for process in running:
                output, _ = process.communicate(timeout=FORMAT_TIMEOUT_S)
                if process.returncode != 0:
                    raise KafkaRigError(f"formatting Kafka's storage failed:\n{output.decode()[-2000:]}")
        except subprocess.TimeoutExpired:
            raise KafkaRigError(f"formatting Kafka's storage took more than {FORMAT_TIMEOUT_S} s") from None
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.communicate()

    def _launch(self, node: Broker, java: str, classpath: str) -> None:
        heap = "1g" if self.brokers == 1 else "512m"
        options = [
            f"-Xmx{heap}",
            f"-Xms{heap}",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *([] if self.measured else SHORT_LIVED),
            *self.java_options,
        ]
        command = [java, *options, "-cp", classpath, "kafka.Kafka", str(node.home / "server.properties")]
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                tied_to_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=node.home,
                start_new_session=True,  # Ctrl-C is for the test, which stops the broker afterwards
            )
        node.paused = False

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when every running broker is in the cluster's metadata. Raises `KafkaRigError`."""
        deadline = time.monotonic() + timeout_s
        running = [node for node in self.nodes if node.running and not node.paused]
        while time.monotonic() < deadline:
            for node in self.nodes:
                if node.process is not None and node.process.poll() not in (None, -signal.SIGKILL):
                    raise KafkaRigError(f"broker {node.node} ended with {node.process.poll()}:\n{self._tail(node)}")
            if all(self._sees(node, {other.node for other in running}) for node in running):
                return
            time.sleep(0.1)
        tails = "\n".join(self._tail(node) for node in running)
        raise KafkaRigError(f"Kafka was not ready within {timeout_s} s:\n{tails}")

    @staticmethod
    def _sees(node: Broker, others: set[int]) -> bool:
        # A new client each time: librdkafka backs off for longer and longer on an address that refuses at first.
        client = AdminClient({"bootstrap.servers": node.address, "log_level": 0, "error_cb": lambda _: None})
        try:
            return others <= set(client.list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    @staticmethod
    def _tail(node: Broker) -> str:
        return node.log.read_text("utf-8", "replace")[-2000:] if node.log.exists() else ""

    def kill(self, number: int) -> None:
        """SIGKILL, at once, as a power cut."""
        node = self._running(number)
        node.kill()
        node.wait(STOP_TIMEOUT_S)

    def shut_down(self, number: int) -> None:
        """SIGTERM: it gives up its partitions first, so that they have another leader's epoch afterwards."""
        node = self._running(number)
        node.terminate()
        node.wait(SHUT_DOWN_TIMEOUT_S)

    def restart(self, number: int, *, wait: bool = True) -> None:
        """Start a killed broker again on its old port and data."""
        node = self.nodes[number]
        if node.running:
            raise KafkaRigError(f"broker {number} still runs")
        self._launch(node, tool("java", "openjdk-17-jre-headless"), f"{jars()}/*")
        if wait:
            self.wait_ready()

    def pause(self, number: int) -> None:
        """SIGSTOP: it keeps its connections and answers nothing. Returns once every thread of it has stopped."""
        pid = self._running(number).pid
        os.kill(pid, signal.SIGSTOP)
        self.nodes[number].paused = True
        end = time.monotonic() + STOP_TIMEOUT_S
        while not _stopped(pid):
            if time.monotonic() > end:
                raise KafkaRigError(f"broker {number} does not stop")
            time.sleep(0.01)

    def resume(self, number: int) -> None:
        """SIGCONT."""
        os.kill(self._running(number).pid, signal.SIGCONT)
        self.nodes[number].paused = False

    def pid(self, number: int) -> int:
        """The process of a running broker; the first is 0."""
        return self._running(number).pid

    def _running(self, number: int) -> subprocess.Popen[bytes]:
        process = self.nodes[number].process
        if process is None or process.poll() is not None:
            raise KafkaRigError(f"broker {number} does not run")
        return process

    def stop(self) -> None:
        """Kill every broker and remove the data. Idempotent."""
        for node in self.nodes:
            if node.process is not None and node.running:
                node.process.kill()  # nothing is kept, so there is nothing to shut down in order
        for node in self.nodes:
            if node.process is not None:
                node.process.wait(STOP_TIMEOUT_S)
        self.nodes = []
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)
            self.home = None

    def __enter__(self) -> KafkaCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> int:
    """Run a cluster until Ctrl-C or SIGTERM, its address being the only line on stdout; or fetch the jars."""
    if sys.argv[1:] == ["fetch"]:
        print(f"Kafka {VERSION}: {len(list(jars().glob('*.jar')))} jars", file=sys.stderr)
        return 0
    brokers = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    started_s = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), KafkaCluster(brokers) as cluster:
        print(f"Kafka {VERSION}, {brokers} broker(s), ready in {time.monotonic() - started_s:.1f} s", file=sys.stderr)
        print(cluster.bootstrap_servers, flush=True)
        while True:
            signal.pause()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RigError as error:
        sys.exit(f"error: {error}")


def _stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped: the signal takes effect a moment after it was sent."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
            return False
    return True
