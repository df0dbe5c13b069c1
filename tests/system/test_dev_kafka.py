"""`parallax dev` on a machine with Apache Kafka: the sample traffic runs on it, and nothing is left of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from streams.broker.processes import tied_to_parent
from tests.support.kafka import jars
from tests.support.rig import ROOT, alive, parallax
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

READY_S = 150.0
ENDED_S = 40.0


@pytest.fixture
def kafka_home(tmp_path: Path) -> Path:
    """An installed Kafka: its scripts, over the jars that the tests have."""
    for name, main in (("server-start", "kafka.Kafka"), ("storage", "kafka.tools.StorageTool")):
        path = tmp_path / "kafka" / "bin" / f"kafka-{name}.sh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec java $KAFKA_HEAP_OPTS -cp "{jars()}/*" {main} "$@"\n', "utf-8")
        path.chmod(0o755)
    return tmp_path / "kafka"


def test_dev_runs_on_an_installed_kafka(kafka_home: Path, tmp_path: Path) -> None:
    """It has transactions, so none of the embedded broker's limits are told; SIGTERM ends it, with its data."""
    places = tmp_path / "temporary"
    places.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARALLAX_")}
    environ |= {"KAFKA_HOME": str(kafka_home), "TMPDIR": str(places), "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        dev = subprocess.Popen(
            tied_to_parent(parallax("dev", "--web-port", "0")), cwd=ROOT, env=environ, stdout=file, stderr=file
        )
    try:
        _until(dev, output, r"tasks/s|\d+ tasks|Try in another terminal")
        text = output.read_text("utf-8")
        assert "the local Kafka" in text
        assert "no transactions" not in text
        brokers = [int(pid) for pid in _pids("kafka.Kafka", str(places))]
        assert brokers, "Kafka's data lie elsewhere"
    finally:
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(ENDED_S) == 0, output.read_text("utf-8")[-2000:]
    assert not any(alive(pid) for pid in brokers)
    assert list(places.iterdir()) == []


def _until(dev: subprocess.Popen[bytes], output: Path, pattern: str) -> None:
    def said() -> bool:
        assert dev.poll() is None, output.read_text("utf-8")[-2000:]
        return re.search(pattern, output.read_text("utf-8")) is not None

    wait_until(said, READY_S, lambda: output.read_text("utf-8")[-2000:])


def _pids(*words: str) -> list[str]:
    """Processes whose command line has all these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(path.parent.name)
    return found
