"""A real broker that asks for OAUTHBEARER, and closes connections whose token is over."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.oauth import CLIENT, SECRET, OAuthCluster, TokenEndpoint, unsigned_token
from tests.support.rig import (
    Tap,
    apply_topics,
    clean_environment,
    instant_agent,
    parallax,
    produce,
    register,
    start_worker,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def broker() -> Iterator[OAuthCluster]:
    """One for the module."""
    with OAuthCluster() as cluster:
        yield cluster


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    """One for a test."""
    made = TokenEndpoint()
    yield made
    made.close()


def environment(endpoint: TokenEndpoint | None, secret: str = SECRET, file: Path | None = None) -> dict[str, str]:
    """Settings of a client that shows tokens."""
    found = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_MECHANISM": "OAUTHBEARER"}
    if endpoint is not None:
        found |= {
            "SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": endpoint.url,
            "SASL_OAUTHBEARER_CLIENT_ID": CLIENT,
            "SASL_OAUTHBEARER_CLIENT_SECRET": secret,
        }
    if file is not None:
        found["SASL_OAUTHBEARER_TOKEN_FILE"] = str(file)
    return {f"PARALLAX_KAFKA__{name}": value for name, value in found.items()}


def run(broker: OAuthCluster, prefix: str, env: dict[str, str], *words: str) -> tuple[int, str]:
    """A command; exit code and what it said."""
    where = ("--bootstrap-servers", broker.at(), "--topic-prefix", prefix)
    done = subprocess.run(
        parallax(*words, *where), env=clean_environment() | env, capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert SECRET not in said
    return done.returncode, said


def test_every_role_works_on_and_answers_each_task_once_while_tokens_end(
    broker: OAuthCluster, endpoint: TokenEndpoint, prefix: str
) -> None:
    """Tokens of 10 s: the broker closes every connection again and again, commits under way included."""
    endpoint.lifetime_s = 10.0
    apply_topics(broker.bootstrap_servers, prefix)
    limits = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 50}
    with instant_agent("--vary") as (_, address):
        register(broker.bootstrap_servers, prefix, {"id": "a1", "endpoint": address, "limits": limits})
        worker = start_worker(broker.at(), prefix, env=environment(endpoint))
        try:
            results = Tap(broker.bootstrap_servers, f"{prefix}results")
            began, sent = time.monotonic(), 0
            while time.monotonic() - began < 35:
                records = [
                    (b"a1", json.dumps({"id": f"t{n}", "type": "agent", "target": "a1", "payload": n}).encode())
                    for n in range(sent, sent + 20)
                ]
                sent += produce(broker.bootstrap_servers, f"{prefix}tasks", records)
                time.sleep(0.1)
            found = [json.loads(message.value()) for message in results.until(sent, 90, 2)]
            assert Counter(row["taskId"] for row in found) == {f"t{n}": 1 for n in range(sent)}
            assert {row["status"] for row in found} == {"success"}
            assert endpoint.given >= 4, "no token was renewed"
            assert worker.popen.poll() is None
        finally:
            assert worker.stop() == 0


def test_what_is_wrong_with_a_token_is_said_in_one_line(
    broker: OAuthCluster, endpoint: TokenEndpoint, prefix: str, tmp_path: Path
) -> None:
    """Of a worker and of a command; nothing waits where no wait mends it."""
    apply_topics(broker.bootstrap_servers, prefix)
    file = tmp_path / "token"
    worker = ("worker", "--web-port", "0", "--grpc-port", "0")
    for words in (worker, ("topics", "ls")):
        code, said = run(broker, prefix, environment(endpoint, secret="wrong"), *words)
        assert (code, "it refuses kafka.sasl_oauthbearer_client_id" in said) == (3, True), said
    file.write_text(unsigned_token(CLIENT, -60))
    code, said = run(broker, prefix, environment(None, file=file), *worker)
    assert (code, "the token was refused: it may have expired" in said) == (3, True), said
    file.unlink()
    code, said = run(broker, prefix, environment(None, file=file), *worker)
    assert (code, "kafka.sasl_oauthbearer_token_file" in said) == (3, True), said
    endpoint.down = True
    code, said = run(broker, prefix, environment(endpoint), *worker)
    assert (code, "it answers 503" in said) == (3, True), said
    file.write_text(unsigned_token(CLIENT, 300))
    assert run(broker, prefix, environment(None, file=file), "doctor")[0] == 0
