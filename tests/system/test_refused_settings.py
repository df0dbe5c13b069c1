"""A setting that the brokers refuse: the worker says which one, and what they accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import apply_topics, start_worker
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

TOO_LONG = ("--session-timeout", "31m")
"""Brokers accept 30 minutes at most."""
REASON = "Kafka refuses session_timeout: it must lie between group.min.session.timeout.ms and"


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What workers write to stderr."""
    monkeypatch.setenv("TEST_WORKER_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.mark.parametrize("role", ["dispatch", "plans", "schedules"])
def test_a_session_timeout_that_is_refused_ends_the_worker_at_once(
    kafka: KafkaCluster, prefix: str, printed: Path, role: str
) -> None:
    """By default the watchdog comes before the time after which refused polls end a worker: it went on for ever."""
    apply_topics(kafka.bootstrap_servers, prefix)
    worker = start_worker(kafka.bootstrap_servers, prefix, "--roles", role, *TOO_LONG, wait=False)
    assert worker.run(60) == 1
    assert f"parallax: {role} failed: {REASON}" in printed.read_text("utf-8")


def test_statistics_that_are_refused_say_why(kafka: KafkaCluster, prefix: str, printed: Path) -> None:
    """They are started again and again; the log says what is wrong. (All warnings of statistics were dropped.)"""
    apply_topics(kafka.bootstrap_servers, prefix)
    worker = start_worker(kafka.bootstrap_servers, prefix, "--roles", "stats", *TOO_LONG, wait=False)
    try:
        wait_until(lambda: REASON in printed.read_text("utf-8"), 60)
        assert "statistics failed; starting them again" in printed.read_text("utf-8")
    finally:
        worker.stop()
