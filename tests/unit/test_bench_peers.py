"""A peer that cannot run here is a row of the bench that says why; the bench goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bench import throughput
from tests.bench.draining import Bench, Load
from tests.bench.peers import launch
from tests.support import java
from tests.support.rig_error import RigError


class BenchWithoutBroker(Bench):
    """Prepares nothing: starting the peer is as far as these tests get."""

    def prepare(self, load: Load) -> str:
        return "bench."


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only directory of PATH; nothing was fetched before."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    for module in (java, launch):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    return directory


def add(tools: Path, *names: str) -> None:
    for name in names:
        (tools / name).write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
        (tools / name).chmod(0o755)


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        ((), "java is not installed"),
        (("java",), "javac is not installed"),
        (("java", "javac"), "mvn is not installed"),
        (("java", "javac", "mvn"), "Maven could not fetch parallel-consumer"),
    ],
)
def test_a_missing_tool_is_named(tools: Path, present: tuple[str, ...], reason: str) -> None:
    add(tools, *present)
    row = throughput.peer(BenchWithoutBroker("localhost:1", "http://localhost:1"), "parallel-consumer", 10)
    assert row.note.startswith(reason)
    assert row.cpu_us != row.cpu_us


def test_javac_says_what_it_does_not_compile(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tools, "java", "javac")
    monkeypatch.setattr(launch, "maven_jars", lambda *_: tools)
    with pytest.raises(RigError, match="javac failed:\nno network"):
        launch.start_peer("parallel-consumer", "localhost:1", "bench.", "http://localhost:1", 5)


def test_a_peer_that_ends_at_once_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = shutil.which("true")
    assert ends is not None
    monkeypatch.setitem(launch.PEERS, "floor", launch.Peer("", lambda _: [ends]))
    with pytest.raises(RigError, match="floor ended before it was ready"):
        launch.start_peer("floor", "localhost:1", "bench.", "http://localhost:1", 5)
