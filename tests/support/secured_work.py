"""Everything the pipeline does at least once, on a secured broker, everybody with exactly the rights of the table.

In: a secured broker, a prefix. Out: `Work`: what came of it. Each role of the worker runs as a process and a user of its own, so
that the broker's audit tells what each was allowed and what it was refused.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson
from confluent_kafka import Consumer

from agents_io.fakes.steps import answer, compute, hang, status
from agents_io.protocols.kafka.fake import FakeKafkaAgent
from schemas.access import WORKER, Who, grants
from schemas.topics import TOPICS
from streams.broker.kafka import client_options
from tests.support.fleet import Fleet
from tests.support.plan_cases import step
from tests.support.rig import Process, Tap, clean_environment, parallax, produce, start_worker
from tests.support.secured import AUTHORITY, SecuredCluster, environment, password, settings_of

OUTSIDE: tuple[Who, ...] = ("admin", "producer", "consumer", "operator", "agent")
TASKS = 40
PARTITIONS = 2
GROUP = "readers-"
COMMAND_TIMEOUT_S = 60
TEMPLATE = {
    "name": "twice",
    "plan": {"kind": "sequential", "tasks": [step("one", "good", say="hey"), step("two", "good", say="hey")]},
}
LIMITS = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 20}
POINT = {"agentId": "seen", "patternName": "", "taskType": "agent", "success": True, "executionTime": 10}


@dataclass
class Work:
    """A broker and what was done there."""

    broker: SecuredCluster
    prefix: str
    said: dict[str, str] = field(default_factory=dict)
    """What commands printed, by a name."""
    webs: dict[str, str] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def app(self) -> str:
        """The workers' app id."""
        return self.prefix.rstrip(".")

    def rights(self, who: Who) -> list[Any]:
        """What the table gives them."""
        group = GROUP if who == "consumer" else None
        return grants([who], self.prefix, self.app, agent_topics=[f"{self.app}-requests"], group=group)

    def command(self, user: str, *words: str, expect: int = 0, **env: str) -> str:
        """Run a command of parallax as a user; what it printed."""
        settings = {"PARALLAX_BOOTSTRAP_SERVERS": self.broker.at(), "PARALLAX_TOPIC_PREFIX": self.prefix}
        settings |= {"PARALLAX_APP_ID": self.app}
        done = subprocess.run(
            parallax(*words), env=clean_environment() | settings | environment(user) | env, capture_output=True, text=True,
            timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == expect, f"{words}: {done.returncode} {done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if expect == 0 else done.stderr

    def foreign(self, user: str) -> dict[str, Any]:
        """How another client logs in."""
        return {
            "bootstrap.servers": self.broker.at(), "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user, "sasl.password": password(user), "ssl.ca.location": str(AUTHORITY),
        }  # fmt: skip

    def send(self, user: str, topic: str, *values: Any, key: bytes | None = None) -> None:
        """Records from a foreign client; bytes as they are."""
        raw = [(key, value if isinstance(value, bytes) else json.dumps(value).encode()) for value in values]
        produce(self.broker.at(), self.prefix + topic, raw, **self.foreign(user))

    def until(self, topic: str, enough: Callable[[list[dict[str, Any]]], bool], timeout_s: float = 40.0) -> None:
        """Read a topic as the super user until there is enough on it."""
        tap, found = Tap(self.broker.bootstrap_servers, self.prefix + topic), self.records.setdefault(topic, [])
        found.clear()
        end = time.monotonic() + timeout_s
        while not enough(found):
            assert time.monotonic() < end, f"{topic}: {len(found)} records, the last {found[-1:]}"
            found += [orjson.loads(message.value() or b"null") for message in tap.read(0.2)]
        tap.close()


def agents(work: Work) -> Fleet:
    """`good` says what it is told, `busy` asks for a pause first, `hang` never answers, `far` reads a Kafka topic."""
    fleet = Fleet(
        {
            "good": compute(lambda payload: {"value": payload.get("say"), "confidence": 0.9}),
            "busy": [status(429, retry_after="4", times=1), answer()],
            "hang": hang(),
        }
    )
    login = client_options(settings_of(work.broker, "agent", work.prefix))
    servers = login.pop("bootstrap_servers")
    fleet.agents["far"] = FakeKafkaAgent(servers, f"{work.app}-requests", answer(), client=login)
    return fleet


def prepare(work: Work) -> None:
    """Rights for everybody, then the topics, by an administrator who is no super user. They grow once."""
    for who in (*WORKER, *OUTSIDE):
        work.broker.may(who, work.rights(who))
    work.command("admin", "topics", "apply", "--partitions", "1")
    work.command("admin", "topics", "apply", "--partitions", str(PARTITIONS))
    work.broker.create(f"{work.app}-requests")
    work.said["topics"] = work.command("admin", "topics", "ls", "-o", "jsonl")


@contextmanager
def workers(work: Work, fleet: Fleet, folder: Path) -> Iterator[None]:
    """One worker a role, each as a user of the role's name."""
    listed = folder / "agents.toml"
    listed.write_text(f'[agents.filed]\nendpoint = "{fleet.agents["good"].endpoint}"\n')
    templates = folder / "templates.jsonl"
    templates.write_text(json.dumps(TEMPLATE) + "\n")
    more = {"PARALLAX_PLANS__TEMPLATES": str(templates), "PARALLAX_AGENTS_FILE": str(listed)}
    with ExitStack() as stack:
        running: dict[str, Process] = {}
        for role in WORKER:
            env = environment(role) | more
            options = ("--roles", role, "--instance-id", "w1", "-o", "json")
            running[role] = start_worker(work.broker.at(), work.prefix, *options, env=env, wait=False)
            stack.callback(running[role].kill)
        for role, worker in running.items():
            work.webs[role] = json.loads(worker.line(60))["web"]
        yield
        for role, worker in running.items():
            assert worker.stop() == 0, role


def everything(work: Work, fleet: Fleet, folder: Path) -> None:
    """All that users, agents and records can ask for."""
    file = folder / "agents.jsonl"
    rows = [{"id": name, "endpoint": agent.endpoint, "limits": LIMITS} for name, agent in fleet.agents.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    work.command("operator", "agents", "add", "--file", str(file))
    _tasks(work, folder)
    _plans(work, folder)
    _later(work)
    _points(work)
    _bad_records(work)
    _pages(work)
    _commands(work)


def _tasks(work: Work, folder: Path) -> None:
    file = folder / "tasks.jsonl"
    rows = [{"id": f"t{n}", "type": "agent", "target": "good", "payload": {"say": n}} for n in range(TASKS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    work.said["results"] = work.command("producer", "submit", str(file), "--wait", "--timeout", "40s")
    # Without a key they lie anywhere, and are sent on to the agent's owner partition.
    away = [{"id": f"away{n}", "type": "agent", "target": "good", "payload": {"say": n}} for n in range(TASKS)]
    work.send("producer", "tasks", *away)
    busy = [{"id": f"busy{n}", "type": "agent", "target": "busy", "payload": {"n": n}} for n in range(2)]
    for task in busy:  # the second comes while the agent wants to be left alone: it waits
        work.send("producer", "tasks", task, key=b"busy")
        time.sleep(0.5)
    work.send("producer", "tasks", {"id": "far1", "type": "agent", "target": "far", "payload": {}}, key=b"far")
    work.send("producer", "tasks", {"id": "p1", "type": "pattern", "target": "twice", "payload": {}})
    last = {"busy0", "busy1", "far1", "p1", *(row["id"] for row in away)}
    work.until("results", lambda found: last <= {result["taskId"] for result in found})


def _plans(work: Work, folder: Path) -> None:
    file = folder / "plans.jsonl"
    race = {"id": "race", "kind": "parallel", "strategy": "race", "tasks": [step("a", "good"), step("b", "hang")]}
    file.write_text(json.dumps(race) + "\n")
    work.said["plan-results"] = work.command("producer", "submit", "--plan", "--wait", str(file), "--timeout", "40s")
    work.until("results", lambda found: "cancelled" in {result["status"] for result in found})


def _later(work: Work) -> None:
    """A task for later, and schedules that lie anywhere: some are sent on to the partition of their id."""
    task = {"type": "agent", "target": "good", "payload": {"say": 1}}
    at_ms = time.time_ns() // 1_000_000 + 2000
    work.send("producer", "tasks", task | {"id": "later", "metadata": {"notBefore": at_ms}}, key=b"good")
    names = [f"s{n}" for n in range(8)]
    for name in names:
        work.send("producer", "schedules", {"id": name, "everyMs": 1000, "task": task}, key=name.encode())
    work.command("operator", "schedules", "add", "s8", "--every", "1s", "--task", json.dumps(task))

    def made(found: list[dict[str, Any]]) -> bool:
        return {"later", *names, "s8"} <= {result["taskId"].partition("@")[0] for result in found}

    work.until("results", made)
    for name in (*names, "s8"):
        work.command("operator", "schedules", "rm", name)


def _points(work: Work) -> None:
    """An agent that goes bad, and verdicts on its answers."""
    now_ms = time.time_ns() // 1_000_000
    points = [
        POINT | {"taskId": f"seen{n}", "timestamp": now_ms - 1000 + n, "confidence": 0.9 if n < 150 else 0.2}
        for n in range(300)
    ]
    work.send("producer", "data-points", *points, key=b"seen")
    verdicts = [point | {"feedback": True, "success": n % 2 == 0} for n, point in enumerate(points[:150])]
    work.send("producer", "data-points", *verdicts, key=b"seen")
    work.until("anomalies", lambda found: bool(found))
    work.until("aggregates", lambda found: any(a["agentId"] == "seen" and a["count"] == 300 for a in found))
    work.until("data-points", lambda found: sum(point["agentId"] == "good" for point in found) >= TASKS)


def _bad_records(work: Work) -> None:
    for topic in ("tasks", "plans", "data-points"):
        work.send("producer", topic, b"{not json")
    internal = ("dispatch", "parked", "agents", "controls", "scheduled", "schedules")
    for topic in internal:
        produce(work.broker.bootstrap_servers, work.prefix + topic, [(b"k", b"{not json")])
    for topic in ("tasks", "plans", "data-points", *internal):
        tap = Tap(work.broker.bootstrap_servers, f"dlq.{work.prefix}{topic}")
        assert [letter.value() for letter in tap.until(1, 30)] == [b"{not json"], topic
        tap.close()


def _pages(work: Work) -> None:
    for web in work.webs.values():
        assert json.loads(_page(f"{web}/api/v1/tasks/t1"))["status"] == "success"
        assert _page(f"{web}/api/v1/stream?last=5", lines=1)
    assert json.loads(_page(f"{work.webs['stats']}/api/v1/agents/good/stats"))["totalExecutions"] >= TASKS


def _page(url: str, lines: int | None = None) -> bytes:
    with urlopen(url, timeout=20) as page:  # noqa: S310 - a worker of ours
        return bytes(page.readline() if lines else page.read())


def _commands(work: Work) -> None:
    for name, words in {
        "tail": ("tail", "results", "--from-beginning"),
        "task": ("task", "t1", "-o", "json"),
        "plan": ("plan", "race", "-o", "json"),
        "agents": ("agents", "ls", "-o", "jsonl"),
        "stats": ("stats", "good", "-o", "json"),
        "anomalies": ("anomalies", "-o", "jsonl"),
        "letters": ("dlq", "ls", "-o", "jsonl"),
        "replay": ("dlq", "replay", "--all"),
        "feedback": ("feedback", "t1", "failure"),
        "cache": ("cache", "clear"),
    }.items():
        more = ("--max", str(TASKS)) if name == "tail" else ()
        work.said[name] = work.command("operator", *words, *more)
    work.command("producer", "cancel", "t1")
    _subscribe(work)


def _subscribe(work: Work) -> None:
    """A foreign client in a group of its own, on everything users may read."""
    names = [work.prefix + topic.name for topic in TOPICS if topic.users_read]
    group = {"group.id": f"{GROUP}1", "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    consumer = Consumer(work.foreign("consumer") | group)
    consumer.subscribe(names)
    seen: set[str] = set()
    end = time.monotonic() + 30
    while seen < set(names):
        assert time.monotonic() < end, f"only {seen}"
        for message in consumer.consume(500, timeout=0.5):
            assert message.error() is None
            seen.add(message.topic())
    consumer.commit(asynchronous=False)
    consumer.close()
