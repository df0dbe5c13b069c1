"""Two installations on one cluster: what tells them apart, and what is said when nothing does."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import pytest

from tests.support.kafka import KafkaCluster
from tests.support.rig import Process, Tap, apply_topics, instant_agent, parallax, produce, register

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
LIMITS = {"maxRequests": 100_000, "windowMs": 60_000, "maxConcurrency": 20}


def worker(address: str, prefix: str, *options: str) -> Process:
    """A worker that dispatches; it is ready."""
    words = ["worker", "--bootstrap-servers", address, "--topic-prefix", prefix, "--roles", "dispatch"]
    made = Process(parallax(*words, "--web-port", "0", "--grpc-port", "0", *options))
    made.line(90)
    return made


def send(address: str, prefix: str, endpoint: str, count: int) -> None:
    """An agent, and tasks for it."""
    register(address, prefix, {"id": "a1", "endpoint": endpoint, "limits": LIMITS})
    row = {"type": "agent", "target": "a1", "payload": 0}
    tasks = [json.dumps(row | {"id": f"t{n}"}).encode() for n in range(count)]
    produce(address, f"{prefix}tasks", ((str(n).encode(), task) for n, task in enumerate(tasks)))


def answered(address: str, prefix: str, count: int) -> Counter[str]:
    """How often each task has a result."""
    tap = Tap(address, f"{prefix}results")
    try:
        return Counter(json.loads(m.value())["taskId"] for m in tap.until(count, 60, quiet_s=2))
    finally:
        tap.close()


def doctor(address: str, prefix: str, app: str) -> tuple[int, str]:
    """Its exit code and what it says."""
    command = parallax("doctor", "--bootstrap-servers", address, "--topic-prefix", prefix)
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={"PARALLAX_APP_ID": app, "PATH": "/usr/bin:/bin"},
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_two_prefixes_under_one_app_id_do_not_touch_each_other(kafka: KafkaCluster, prefix: str) -> None:
    """Both answer all their tasks once, at the same time; the doctor has nothing to say of it."""
    address, app = kafka.bootstrap_servers, f"app{prefix.rstrip('.')}"
    prefixes = [f"{prefix}x.", f"{prefix}y."]
    for one in prefixes:
        apply_topics(address, one)
    with instant_agent() as (_, endpoint):
        workers = [worker(address, one, "--app-id", app, "--session-timeout", "6s") for one in prefixes]
        try:
            for one in prefixes:
                send(address, one, endpoint, 400)
            for one in prefixes:
                assert answered(address, one, 400) == Counter(f"t{n}" for n in range(400))
            code, said = doctor(address, prefixes[0], app)
            assert code == 0, said
        finally:
            for one in workers:
                assert one.stop() == 0


def test_two_app_ids_on_one_prefix_are_told_by_the_doctor(kafka: KafkaCluster, prefix: str) -> None:
    """With the name of the other group and what comes of it."""
    address = kafka.bootstrap_servers
    apply_topics(address, prefix)
    other = worker(address, prefix, "--app-id", "store")
    try:
        code, said = doctor(address, prefix, "shop")
        assert code == 1
        assert f"store.{prefix.rstrip('.')}-dispatch" in said
        assert "twice" in said
        assert doctor(address, prefix, "store")[0] == 0
    finally:
        other.stop()


def test_of_two_workers_with_one_instance_id_one_ends_and_the_other_works(kafka: KafkaCluster, prefix: str) -> None:
    """In place of pushing each other out for ever."""
    address = kafka.bootstrap_servers
    apply_topics(address, prefix)
    same = ("--instance-id", "w1", "--session-timeout", "6s", "--app-id", "twins")
    workers = [worker(address, prefix, *same), worker(address, prefix, *same)]
    try:
        ended: list[int] = []

        def one_ended() -> bool:
            ended[:] = [one.popen.returncode for one in workers if one.popen.poll() is not None]
            return bool(ended)

        for _ in range(120):
            if one_ended():
                break
            try:
                workers[0].popen.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        assert ended == [1]
        with instant_agent() as (_, endpoint):
            send(address, prefix, endpoint, 100)
            assert answered(address, prefix, 100) == Counter(f"t{n}" for n in range(100))
    finally:
        for one in workers:
            if one.popen.poll() is None:
                one.stop()
