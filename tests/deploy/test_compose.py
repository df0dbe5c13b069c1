"""docker-compose.yml and the image, carried out without Docker: broker, topics job, worker, healthcheck, stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient

from schemas.access import WORKER
from streams.broker.processes import free_port
from streams.tokens import SHORTEST
from tests.support.charts import of_kind, render, values
from tests.support.compose import ComposedKafka, seconds, services
from tests.support.image import DOCKERFILE, Container, Stage, build, instructions, run
from tests.support.kafka import VERSION
from tests.support.pipeline import WIDE, Pipeline
from tests.support.rig import fake_agent

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]
PREFIX = "parallax."


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    """The image, built once."""
    work = Path(tempfile.mkdtemp(prefix="parallax-image-"))
    try:
        yield build(work)
    finally:
        shutil.rmtree(work)


@pytest.fixture(scope="module")
def broker(image: Stage) -> Iterator[ComposedKafka]:
    """The composed broker, with the topics made by the service that makes them."""
    with ComposedKafka() as cluster:
        service = services()["topics"]
        code, said = run(image, service["command"], {"PARALLAX_BOOTSTRAP_SERVERS": cluster.inside})
        assert (code, "created" in said) == (0, True), said
        yield cluster


@pytest.fixture(scope="module")
def tokens(image: Stage) -> Iterator[Path]:
    """The volume of tokens, made by the service that makes them."""
    volume = Path(tempfile.mkdtemp(prefix="parallax-tokens-"))
    os.chown(volume, 10001, 10001)
    volume.chmod(0o755)
    try:
        make_tokens(image, volume)
        yield volume
    finally:
        shutil.rmtree(volume)


def make_tokens(image: Stage, volume: Path) -> None:
    """The service `tokens`, once."""
    service = services()["tokens"]
    assert service["volumes"] == ["tokens:/data"]
    words = [*service["entrypoint"], *service["command"]]
    assert run(image, words, {}, entrypoint=False, mounts={"/data": volume}) == (0, "")


def test_tokens_are_made_once_and_shown_nowhere(image: Stage, tokens: Path) -> None:
    """A second start keeps them; they differ, and whoever mounts the volume can read them."""
    made = {file.name: file.read_text("utf-8") for file in tokens.iterdir()}
    assert set(made) == {"view", "operate", "agent"}
    assert len(set(made.values())) == 3
    assert min(map(len, made.values())) >= SHORTEST
    make_tokens(image, tokens)
    assert {file.name: file.read_text("utf-8") for file in tokens.iterdir()} == made
    assert all(file.stat().st_mode & 0o004 for file in tokens.iterdir())


class Worker:
    """The service `worker` on free ports."""

    def __init__(self, image: Stage, broker: ComposedKafka, tokens: Path) -> None:
        self.service = services()["worker"]
        self.port = free_port()
        self.image = image
        ports = {"PARALLAX_WEB_PORT": str(self.port), "PARALLAX_GRPC_PORT": str(free_port())}
        env = self.service["environment"] | {"PARALLAX_BOOTSTRAP_SERVERS": broker.inside} | ports
        self.data = Path(tempfile.mkdtemp(prefix="parallax-data-"))
        os.chown(self.data, 10001, 10001)
        mounts = {"/data": self.data, "/run/tokens": tokens}
        self.container = Container(image, self.service["command"], env, mounts)

    def healthy(self) -> bool:
        """What the healthcheck finds, in the same container image."""
        [kind, *command] = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        command = [word.replace(":8080", f":{self.port}") for word in command]
        return run(self.image, command, {}, entrypoint=False)[0] == 0

    def close(self) -> None:
        """Whatever happened before."""
        self.container.close()
        shutil.rmtree(self.data)


@pytest.fixture
def worker(image: Stage, broker: ComposedKafka, tokens: Path) -> Iterator[Worker]:
    """A worker that starts."""
    found = Worker(image, broker, tokens)
    try:
        yield found
    finally:
        found.close()


def status(pid: int) -> dict[str, str]:
    """`/proc/PID/status`."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def asked(port: int, token: str | None) -> int:
    """The status of the metrics, as Prometheus would ask for them."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers).status_code


async def test_a_worker_serves_and_ends_in_order_when_its_container_is_stopped(
    worker: Worker, broker: ComposedKafka, tokens: Path
) -> None:
    """It is healthy when it is ready and not before; a call under way at SIGTERM is answered; exit 0 in good time."""
    assert not worker.healthy()
    await asyncio.to_thread(worker.container.until, "parallax worker ready")
    assert worker.healthy()
    view = (tokens / "view").read_text("utf-8")
    assert [asked(worker.port, token) for token in (None, "x" * 48, view)] == [401, 401, 200]
    told = status(worker.container.first)
    assert told["NSpid"].split()[-1] == "1"
    assert told["Uid"].split()[0] == "10001"
    assert (told["CapEff"], told["NoNewPrivs"]) == ("0" * 16, "1")
    pipeline = Pipeline(broker.bootstrap_servers, PREFIX)
    with fake_agent("--behaviour", "answer:delay_ms=3000") as endpoint:
        await pipeline.register({"id": "slow", "endpoint": endpoint, "limits": WIDE})
        await pipeline.tasks(range(20), ["slow"])
        for _ in range(300):
            if any(event["type"] == "task:started" for event in await pipeline.read("events")):
                break
            await asyncio.sleep(0.1)
        code, took_s = await asyncio.to_thread(worker.container.terminate, seconds(worker.service["stop_grace_period"]))
    assert code == 0, worker.container.output
    assert took_s < seconds(worker.service["stop_grace_period"])
    results = await pipeline.read("results")
    assert [result["status"] for result in results].count("success") >= 1
    assert not worker.healthy()
    assert list(worker.data.iterdir()) == []


async def test_the_groups_that_keda_asks_for_are_those_workers_are_in(worker: Worker, broker: ComposedKafka) -> None:
    """And they have committed on the topics it names, or its lag would be of nothing."""
    await asyncio.to_thread(worker.container.until, "parallax worker ready")
    given = values("one") | {"groups": {"worker": {"roles": list(WORKER), "autoscaling": {"enabled": True}}}}
    [scaled] = of_kind(render(given), "ScaledObject").values()
    triggers = [trigger["metadata"] for trigger in scaled["spec"]["triggers"]]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    groups = {found.group_id for found in admin.list_consumer_groups().result(10).valid}
    assert {trigger["consumerGroup"] for trigger in triggers} == groups
    for trigger in triggers:
        described: Any = admin.describe_consumer_groups([trigger["consumerGroup"]])[trigger["consumerGroup"]].result(10)
        topics = {part.topic for member in described.members for part in member.assignment.topic_partitions}
        assert trigger["topic"] in topics
    code, _ = await asyncio.to_thread(worker.container.terminate, 60)
    assert code == 0


def test_a_worker_that_never_reaches_kafka_says_so_and_ends(image: Stage) -> None:
    """Exit 3, for the orchestrator to start it again."""
    begun = time.monotonic()
    code, said = run(image, ["worker"], {"PARALLAX_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert (code, "not reachable" in said) == (3, True)
    assert time.monotonic() - begun < 60


def test_the_image_begins_with_the_worker_itself(image: Stage) -> None:
    """A shell in between would keep SIGTERM to itself; user and directory are those of the Dockerfile."""
    assert (image.entrypoint, image.command, image.user) == (["parallax"], ["worker"], "10001:10001")
    found = dict(instructions(DOCKERFILE.read_text("utf-8")))
    assert found["EXPOSE"] == "8080 50051"
    assert run(image, ["version"], {}) == (0, "parallax-streams 0.1.0\n")
    # The build's tools stay behind.
    assert run(image, ["sh", "-c", "ls /src /opt/build"], {}, entrypoint=False)[0] != 0


def test_the_broker_is_of_the_version_that_is_tested() -> None:
    """The jars of the tests and the image are one release."""
    assert services()["kafka"]["image"] == f"apache/kafka:{VERSION}"
