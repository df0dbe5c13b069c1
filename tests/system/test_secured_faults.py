"""A secured broker that refuses: what is missing is said in a sentence, soon, before anything is begun; and nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agents_io.fakes.steps import answer
from schemas.access import WORKER, Grant, grants
from streams.broker.access import AccessDenied, require, worker_needs
from streams.broker.kafka import TransactionsDenied, supports_transactions
from tests.support.fleet import Fleet
from tests.support.rig import apply_topics, clean_environment, parallax, start_worker
from tests.support.secured import STRANGER, TLS, SecuredCluster, environment, secured, settings_of
from tests.support.secured_work import LIMITS, Work
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
REMEDY = "what is needed is printed by: parallax docs acls"
USER = "user faulty (kafka.sasl_username)"
SOON_S = 40.0
"""Generous: the machine has others on it. A refused worker ends in two seconds, one at the wrong port in nine."""


@pytest.fixture(scope="module")
def broker() -> Iterator[SecuredCluster]:
    """One for the module."""
    with secured(["faulty", "producer"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def work(broker: SecuredCluster) -> Work:
    """Topics, and a worker's user who may do all that is needed. Tests that take something away give it back."""
    made = Work(broker, f"s{uuid.uuid4().hex[:8]}.")
    apply_topics(broker.bootstrap_servers, made.prefix)
    broker.may("faulty", grants(WORKER, made.prefix, made.app))
    broker.may("producer", grants(["producer", "operator"], made.prefix, made.app))
    return made


def run(work: Work, *words: str, at: str | None = None, prefix: str | None = None, **kafka: Any) -> tuple[int, str]:
    """A command as the user `faulty`; exit code and what it said, wherever it said it."""
    where = ("--bootstrap-servers", at or work.broker.at(), "--topic-prefix", prefix or work.prefix)
    env = clean_environment() | environment("faulty", **kafka) | {"PARALLAX_APP_ID": work.app}
    done = subprocess.run(
        parallax(*words, *where), env=env, capture_output=True, text=True, timeout=SOON_S, check=False
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "-secret" not in said, "a password was shown"
    return done.returncode, said


WORKER_COMMAND = ("worker", "--web-port", "0", "--grpc-port", "0")


def both(work: Work, **options: Any) -> tuple[tuple[int, str], tuple[int, str]]:
    """A worker and a doctor, at once."""
    with ThreadPoolExecutor(2) as pool:
        worker = pool.submit(run, work, *WORKER_COMMAND, **options)
        doctor = pool.submit(run, work, "doctor", **options)
        return worker.result(), doctor.result()


def test_whatever_is_missing_is_missed_before_anything_begins(work: Work) -> None:
    """Each right of the table is taken away alone and asked for: it is named."""
    settings = settings_of(work.broker, "faulty", work.prefix)
    needed = worker_needs(settings)
    assert len(needed) > 40
    asyncio.run(require(settings, needed))
    for right in needed:
        if right.operation in ("Create", "Describe"):
            continue  # made by whoever is first; one who has all roles reads or writes every topic, and so may see it
        work.broker.may_not("faulty", [right])
        if right.resource == "transactional-id":
            with pytest.raises(
                TransactionsDenied, match=f"grant Write on transactional ids that begin with {right.name}"
            ):
                asyncio.run(supports_transactions(settings))
        else:
            with pytest.raises(AccessDenied) as caught:
                asyncio.run(require(settings, needed))
            named = f"{USER} {right.operation} on {right.resource} {right.name}"
            assert named in str(caught.value), right
            assert str(caught.value).endswith(REMEDY)
        work.broker.may("faulty", [right])
    assert asyncio.run(supports_transactions(settings))


@pytest.mark.parametrize(
    ("resource", "name", "operation"),
    [
        ("topic", "{prefix}results", "Write"),
        ("topic", "{prefix}stats-changelog", "Create"),
        ("group", "{app}-plans", "Read"),
    ],
)
def test_a_worker_without_a_right_ends_at_once_with_a_sentence(
    work: Work, resource: Any, name: str, operation: Any
) -> None:
    """Who is refused what, and the remedy. Doctor says the same."""
    right = Grant(resource, name.format(prefix=work.prefix, app=work.app), operation)
    work.broker.may_not("faulty", [right])
    try:
        (code, said), (doctors, report) = both(work)
    finally:
        work.broker.may("faulty", [right])
    sentence = f"Kafka at {work.broker.at()} refuses {USER} {right}; {REMEDY}"
    assert (code, said.strip().splitlines()[-1]) == (1, f"parallax: {sentence}")
    assert doctors == 1
    assert " ".join(sentence.split()) in " ".join(report.split())


def test_a_worker_without_transactional_ids_ends_at_once_with_a_sentence(work: Work) -> None:
    """Of which role; and that there is another way."""
    right = Grant("transactional-id", f"{work.app}-plans-", "Write", prefixed=True)
    work.broker.may_not("faulty", [right])
    try:
        (code, said), (doctors, report) = both(work)
    finally:
        work.broker.may("faulty", [right])
    wanted = f"refuses transactions: grant Write on transactional ids that begin with {work.app}-plans- "
    assert code == doctors == 1
    assert wanted in said
    assert wanted in report


CONNECTIONS: list[tuple[str, str, dict[str, Any], str]] = [
    ("wrong password", "GOOD", {"sasl_password": "guessed"}, "refused (kafka.sasl_username, kafka.sasl_password)"),
    ("unknown authority", "GOOD", {"ssl_cafile": STRANGER}, "is not trusted (unable to get local issuer certificate)"),
    ("run out", "EXPIRED", {"ssl_cafile": TLS / "expired.pem"}, "is not trusted (certificate has expired)"),
    ("another host", "ELSEWHERE", {"ssl_cafile": TLS / "elsewhere.pem"}, "is not trusted (IP address mismatch"),
    ("mechanism", "GOOD", {"sasl_mechanism": "PLAIN"}, "does not offer PLAIN (kafka.sasl_mechanism)"),
    ("plain", "GOOD", {"security_protocol": "PLAINTEXT"}, "is kafka.security_protocol PLAINTEXT right for this port?"),
    ("no login", "GOOD", {"security_protocol": "SSL"}, "is kafka.security_protocol SSL right for this port?"),
    ("no TLS there", "PLAINSASL", {}, "is kafka.security_protocol SASL_SSL right for this port?"),
]


@pytest.fixture(scope="module")
def spoken(work: Work) -> dict[str, tuple[tuple[int, str], tuple[int, str]]]:
    """What worker and doctor say in each case, a few at a time: most of it is waiting."""
    with ThreadPoolExecutor(3) as pool:
        running = {
            name: pool.submit(both, work, at=work.broker.at(listener), **kafka)
            for name, listener, kafka, _ in CONNECTIONS
        }
        return {name: ended.result() for name, ended in running.items()}


@pytest.mark.parametrize(("name", "listener", "_", "sentence"), CONNECTIONS, ids=[row[0] for row in CONNECTIONS])
def test_a_broker_that_cannot_be_talked_to_is_said_in_a_sentence(
    work: Work, spoken: Any, name: str, listener: str, _: dict[str, Any], sentence: str
) -> None:
    """By worker and doctor alike, with the setting, within seconds; exit code 3."""
    address = work.broker.at(listener)
    (code, said), (doctors, report) = spoken[name]
    assert code == doctors == 3
    assert f"Kafka is not reachable at {address}: " in said
    assert sentence in said
    assert len(said.strip().splitlines()) == 1, said
    assert sentence in report


def test_commands_that_are_refused_say_what(work: Work) -> None:
    """A topic they may not see is not called missing; one they may not grow, read or write is named."""
    code, said = run(work, "topics", "apply", "--partitions", "9")
    assert code == 1
    assert said.strip().endswith("; what is needed is printed by: parallax docs acls admin")
    code, said = run(work, "tail", "results", prefix="another.")
    assert (code, said.strip()) == (1, f"parallax: Kafka at {work.broker.at()} refuses {USER} Describe on topic "
                                       f"another.results; {REMEDY}")  # fmt: skip
    # It writes these only.
    code, said = run(work, "tail", "plan-results", "--max", "1")
    assert (code, said.strip().splitlines()[-1]) == (
        1, f"parallax: Kafka refuses access to topic {work.prefix}plan-results; {REMEDY}"
    )  # fmt: skip


def test_a_right_taken_from_a_running_worker_costs_time_and_nothing_else(work: Work, tmp_path: Path) -> None:
    """It says what is refused, stays, and goes on when it has it again: one result each."""
    right = Grant("topic", f"{work.prefix}results", "Write")
    log = tmp_path / "worker.log"
    tasks = [{"id": f"t{n}", "type": "agent", "target": "good", "payload": {"n": n}} for n in range(20)]
    with Fleet({"good": answer()}) as fleet, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_WORKER_LOG", str(log))
        agent = {"id": "good", "endpoint": fleet.agents["good"].endpoint, "limits": LIMITS}
        work.send("producer", "agents", agent, key=b"good")
        options = ("--roles", "dispatch", "--session-timeout", "6s", "--instance-id", "w1")
        worker = start_worker(work.broker.at(), work.prefix, *options, env=environment("faulty"))
        try:
            work.broker.may_not("faulty", [right])
            work.send("producer", "tasks", *tasks, key=b"good")
            sentence = f"Kafka refuses access to {right.resource} {right.name}; {REMEDY}"
            wait_until(lambda: sentence in log.read_text(), SOON_S, lambda: log.read_text()[-2000:])
            time.sleep(2)
            assert worker.popen.poll() is None
            assert len(log.read_text().splitlines()) < 60, "told too often"
            assert "Traceback" not in log.read_text()
            work.broker.may("faulty", [right])
            names = {task["id"] for task in tasks}
            work.until("results", lambda found: names <= {result["taskId"] for result in found}, 60)
        finally:
            work.broker.may("faulty", [right])
            assert worker.stop() == 0
    counts = Counter(result["taskId"] for result in work.records["results"])
    assert {counts[name] for name in names} == {1}
