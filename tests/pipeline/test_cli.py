"""The console script against the embedded broker: topics, doctor, worker, and every command without topics or a broker."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.broker.topics_admin import apply
from tests.support.cli import Cli
from tests.support.cli import cli as cli
from tests.support.cli import ready as ready


async def test_topics_are_created_once_and_listed(cli: Cli) -> None:
    """ls fails before apply and names every topic; apply creates, a second apply changes nothing, ls is content."""
    before = await cli("topics", "ls", "-o", "json")
    assert before.code == 1
    assert {row["state"] for row in orjson.loads(before.out)} == {"missing"}
    first = await cli("topics", "apply", "--partitions", "3", "-o", "jsonl")
    assert (first.code, {row["action"] for row in first.lines()}) == (0, {"created"})
    second = await cli("topics", "apply", "-o", "jsonl")
    assert (second.code, {row["action"] for row in second.lines()}) == (0, {"unchanged"})
    after = await cli("topics", "ls")
    assert after.code == 0, after.err
    assert f"{cli.settings.topic_prefix}tasks" in after.out


@pytest.mark.parametrize(
    ("command", "topic"),
    [
        ("tail results --from-beginning --max 1", "results"),
        ("tasks ls", "results"),
        ("tasks ls --status waiting", "tasks"),
        ("explain t1", "events"),
        ("retry t1", "tasks"),
        ("retry --failed", "results"),
    ],
)
async def test_a_command_before_the_topics_exist_says_what_to_do(cli: Cli, command: str, topic: str) -> None:
    """One line naming the topic and the remedy, exit 1, and no topic is created by asking."""
    ended = await cli(*command.split())
    assert ended.code == 1
    assert f"{topic} does not exist" in ended.err
    assert "parallax topics apply" in ended.err
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1


async def test_the_doctor_tells_what_is_missing(cli: Cli) -> None:
    """No topics: exit 1 with the remedy. With topics: ok, and a warning that this broker has no transactions."""
    ill = await cli("doctor", "-o", "json")
    assert ill.code == 1
    assert {row["check"]: row["state"] for row in orjson.loads(ill.out)}["topics"] == "failed"
    await apply(cli.settings)
    well = await cli("doctor", "-o", "json")
    assert well.code == 0
    states = {row["check"]: row["state"] for row in orjson.loads(well.out)}
    assert (states["broker"], states["topics"], states["transactions"]) == ("ok", "ok", "warning")
    assert "retention" not in states
    (cli.directory / "parallax.toml").write_text('[dispatch]\nmax_wait = "30d"\n')
    patient = await cli("doctor", "-o", "json")
    sentences = [row["detail"] for row in orjson.loads(patient.out) if row["check"] == "retention"]
    assert len(sentences) == 3
    assert all("720 h" in sentence for sentence in sentences)


async def test_a_worker_says_where_it_is_and_drains_on_sigterm(ready: Cli) -> None:
    """One line on stdout, SIGTERM ends it with 0; a second worker on its port is told so in one line and exits 1."""
    process = await ready.start("worker", "--roles", "dispatch", "--web-port", "0", "--grpc-port", "0", "-o", "json")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            where = orjson.loads(await process.stdout.readline())
            port = where["web"].rpartition(":")[2].strip("/")
            second = await ready("worker", "--roles", "dispatch", "--web-port", port, "--grpc-port", "0")
            assert second.code == 1
            assert port in second.err.splitlines()[-1]
            assert second.out == ""
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err


async def test_no_broker_is_one_line_and_exit_3(settings_for: Any, tmp_path: Path) -> None:
    """Whatever the command, within a bounded time."""
    cli = Cli(settings_for("127.0.0.1:1"), tmp_path)
    before = time.monotonic()
    commands = [("topics", "ls"), ("agents", "ls"), ("tail", "results"), ("stats", "a1"), ("doctor",), ("worker",)]
    for ended in await asyncio.gather(*(cli(*command) for command in commands)):
        assert ended.code == 3, ended
        assert len((ended.err or ended.out).strip().splitlines()) <= 2
        assert "127.0.0.1:1" in ended.err + ended.out
    assert time.monotonic() - before < 60
