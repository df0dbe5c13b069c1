"""Which Kafka on this machine `parallax dev` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.broker.local_kafka import KafkaScripts, installed_kafka


def script(path: Path) -> str:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n", "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("suffix", ["", ".sh"])
@pytest.mark.parametrize("in_home", [True, False])
def test_scripts_are_found_in_kafkas_home_and_on_the_path(tmp_path: Path, suffix: str, in_home: bool) -> None:
    """Apache's end in .sh, those of Homebrew and Confluent do not."""
    java = script(tmp_path / "java" / "java")
    start, storage = (script(tmp_path / "bin" / f"kafka-{name}{suffix}") for name in ("server-start", "storage"))
    path = str(Path(java).parent) if in_home else f"{Path(java).parent}:{tmp_path / 'bin'}"
    environ = {"PATH": path} | ({"KAFKA_HOME": str(tmp_path)} if in_home else {})
    assert installed_kafka(environ) == KafkaScripts(start, storage)


def test_without_java_or_one_of_the_scripts_there_is_no_kafka(tmp_path: Path) -> None:
    """`kafka-storage` came with Kafka 2.8; a Java may be named by JAVA_HOME."""
    script(tmp_path / "bin" / "kafka-server-start.sh")
    environ = {"PATH": str(tmp_path / "bin"), "JAVA_HOME": "/opt/java"}
    assert installed_kafka(environ) is None
    script(tmp_path / "bin" / "kafka-storage.sh")
    assert installed_kafka(environ) is not None
    assert installed_kafka({"PATH": str(tmp_path / "bin")}) is None
