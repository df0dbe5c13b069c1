"""The installed Apache Kafka as a broker for `parallax dev`: one node, its data in a temporary directory.

In: the paths of Kafka's scripts. Out: an address to connect to. Unlike the embedded broker it has transactions, so
results are exactly once. It listens on 127.0.0.1 only; its data is deleted with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.topics import LARGE_RECORD_BYTES
from streams.broker.child_broker import ChildBroker, ChildBrokerError
from streams.broker.processes import free_port

FORMAT_TIMEOUT_S = 60.0
HEAP = "-Xms256m -Xmx512m"


@dataclass(frozen=True, slots=True)
class KafkaScripts:
    """Kafka's own scripts: paths of `kafka-server-start` and `kafka-storage`."""

    start: str
    storage: str


def installed_kafka(
    environ: Mapping[str, str] | None = None, which: Callable[..., str | None] = shutil.which
) -> KafkaScripts | None:
    """The Kafka in `$KAFKA_HOME`, or on the path; None if there is none, or no Java (`$JAVA_HOME`, or on the path)."""
    given = os.environ if environ is None else environ
    if not given.get("JAVA_HOME") and which("java", path=given.get("PATH")) is None:
        return None
    # Apache's scripts end in .sh; those of Homebrew and Confluent do not.
    directory = given.get("KAFKA_HOME")
    for path in ([str(Path(directory) / "bin")] if directory else []) + [given.get("PATH", "")]:
        for suffix in (".sh", ""):
            start, storage = (which(f"kafka-{name}{suffix}", path=path) for name in ("server-start", "storage"))
            if start is not None and storage is not None:
                return KafkaScripts(start, storage)
    return None


class LocalKafka(ChildBroker):
    """`async with LocalKafka(scripts) as broker: ... broker.bootstrap_servers`."""

    name = "the local Kafka"
    start_timeout_s = 60.0

    def __init__(self, scripts: KafkaScripts) -> None:
        super().__init__()
        self._scripts = scripts
        self._directory: str | None = None
        self._data = contextlib.ExitStack()

    async def start(self) -> None:
        """Format its storage, start it, return when it answers. Raises `ChildBrokerError`."""
        with contextlib.ExitStack() as stack:
            self._directory = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="parallax-kafka-", ignore_cleanup_errors=True)
            )
            await super().start()
            self._data = stack.pop_all()

    async def stop(self) -> None:
        """Stop it and delete its data. Idempotent."""
        await super().stop()
        self._data.close()

    def _find(self) -> str:
        return self._scripts.start

    def _environment(self) -> dict[str, str]:
        return _environment(self._root)

    async def _command(self, program: str, port: int) -> list[str]:
        data = self._root / f"data-{port}"
        properties = self._root / f"{port}.properties"
        properties.write_text(_lines(_properties(port, free_port(), data)), "utf-8")
        await self._format(properties)
        return [program, str(properties)]

    async def _format(self, properties: Path) -> None:
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        process = await asyncio.create_subprocess_exec(
            self._scripts.storage,
            "format",
            f"--cluster-id={cluster_id}",  # it may begin with a dash
            "--config",
            str(properties),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(self._root),
        )
        try:
            async with asyncio.timeout(FORMAT_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise ChildBrokerError(f"{self._scripts.storage} took more than {FORMAT_TIMEOUT_S:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            lines = output.decode("utf-8", "replace").strip().splitlines()
            raise ChildBrokerError(
                f"{self._scripts.storage} failed: {lines[-1][:300] if lines else 'it printed nothing'}"
            )

    @property
    def _root(self) -> Path:
        if self._directory is None:
            raise ChildBrokerError(f"{self.name} is not running")
        return Path(self._directory)


def _environment(root: Path) -> dict[str, str]:
    return {"KAFKA_HEAP_OPTS": HEAP, **os.environ, "LOG_DIR": str(root / "logs")}


def _properties(port: int, controller_port: int, data: Path) -> dict[str, Any]:
    """Settings of one node that is broker and controller, sized for a machine with other work."""
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "message.max.bytes": LARGE_RECORD_BYTES + 2 * 1024 * 1024,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }


def _lines(properties: Mapping[str, Any]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())
