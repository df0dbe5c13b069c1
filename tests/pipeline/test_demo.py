"""`make demo`, shortened: the whole pipeline in real processes on the embedded broker, judged by what lies on the topics."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from streams.demo import run
from streams.demo.models import BAD_AGENT
from streams.demo.run import Script, run_demo

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

ROWS = 400
"""Enough for the detectors to know the agent before it falls ill, and for all its lookups to fail before it breaks."""
PID = re.compile(r"\(pid (\d+);")


async def test_an_agent_goes_bad_and_it_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task has one result; the ill agent raises an anomaly, then its circuit opens; the others are left alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = io.StringIO()
    seen = await run_demo(Console(file=out, width=110), Script(rows=ROWS, rounds=1))

    assert seen.results == seen.sent == 3 * ROWS
    assert seen.points == seen.counted
    healthy = [line for agent_id, line in seen.agents.items() if agent_id != BAD_AGENT]
    assert [line.answered for line in healthy] == [ROWS, ROWS]
    assert all(line.accuracy is not None and line.accuracy > 0.8 for line in healthy)
    assert {anomaly["agentId"] for anomaly in seen.anomalies} == {BAD_AGENT}

    falls_ill, breaks, _ = [moment for moment in seen.moments if moment.kind == "demo"]
    noticed = min(moment.at_ms for moment in seen.moments if moment.kind == "anomaly:detected")
    opened = min(moment.at_ms for moment in seen.moments if moment.kind == "circuit:open")
    assert falls_ill.at_ms <= noticed
    assert breaks.at_ms <= opened
    drop = next(anomaly["details"] for anomaly in seen.fired(BAD_AGENT))
    assert drop["currentConfidence"] < drop["historicalAverage"]

    text = out.getvalue()
    assert "What happened" in text
    assert "* circuit:open" in text
    assert "\x1b" not in text
    _nothing_left(text, tmp_path)


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    """Exit code 130, no process, no file."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "PARALLAX_NONSENSE": "ignored"}
    with subprocess.Popen(
        [sys.executable, "-m", "streams.demo"], stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
    ) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if "all up" in line:
                break
        demo.send_signal(signal.SIGINT)
        lines += demo.stdout.readlines()
        assert demo.wait(60) == 130
    _nothing_left("".join(lines), tmp_path)


def test_a_worker_that_dies_is_a_failed_demo(tmp_path: Path) -> None:
    """Exit code 1 and one line that says what ended; the rest is stopped."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "streams.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        bufsize=1,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        text = ""
        for line in demo.stdout:
            text += line
            if "all up" in line:
                break
        os.kill(int(PID.findall(text)[0]), signal.SIGKILL)
        demo.stdout.readlines()
        assert demo.wait(60) == 1
        said = demo.stderr.read()
    assert said.startswith("demo failed: the worker ended with code -9")
    assert said.count("\n") == 1
    _nothing_left(text, tmp_path)


def test_a_wrong_option_is_a_usage_error() -> None:
    """argparse's exit code 2."""
    with pytest.raises(SystemExit) as ended:
        run.main(["--rows", "many"])
    assert ended.value.code == 2


def _nothing_left(text: str, directory: Path) -> None:
    """No worker, nothing at the addresses that were printed, no file."""
    [worker] = PID.findall(text)
    assert not Path(f"/proc/{worker}").exists()
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", text)}
    assert len(ports) == 5
    assert ports.isdisjoint(_listening())
    assert list(directory.iterdir()) == []


def _listening() -> set[int]:
    """The ports somebody listens on (state 0A in the kernel's table)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A"}
