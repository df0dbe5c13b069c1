"""A worker that listens beyond loopback answers another machine nothing without a token: seen from a network namespace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.netns import Machines, machines
from tests.support.rig import ROOT, Process, parallax

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]
VIEW, AGENTS = "view-token-0123456789", "agents-token-0123456789"
TOKENS = {
    "VIEW": VIEW,
    "AGENTS": AGENTS,
    "PARALLAX_WEB_AUTH__VIEW_TOKENS": "env:VIEW",
    "PARALLAX_GATEWAY__AGENT_TOKEN": "env:AGENTS",
}
WIDE = ("--web-host", "0.0.0.0", "--grpc-host", "0.0.0.0", "--web-port", "18080", "--grpc-port", "15051")


@pytest.fixture
def two() -> Iterator[Machines]:
    """Where the worker runs, and another machine on its network."""
    with machines() as found:
        yield found


def ask(two: Machines, questions: list[list[Any]]) -> list[list[Any]]:
    """The answers that the other machine gets."""
    command = two.on_other(sys.executable, "-m", "tests.support.ask_from")
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, cwd=ROOT, check=True)
    found: list[list[Any]] = json.loads(done.stdout)
    return found


def test_another_machine_needs_a_token_for_everything(two: Machines) -> None:
    """Each route of the running worker, those of other workers and the gRPC port included."""
    url = f"http://{two.address}:18080"
    command = two.on_worker(sys.executable, "-m", "tests.support.lone_worker", *WIDE)
    worker = Process(command, TOKENS)
    try:
        assert json.loads(worker.line(120))["web"] == "http://0.0.0.0:18080"
        token = {"Authorization": f"Bearer {VIEW}"}
        [[status, body]] = ask(two, [["GET", url + "/", token]])
        assert status == 200
        listed = json.loads(body)["paths"]
        assert {"/api/v1/stream", "/internal/v1/plans", "/internal/v2/stats"} <= set(listed)
        paths = [path.replace("{id}", "x").replace("{name}", "x").replace("{file}", "app.js") for path in listed]
        answers = dict(zip(paths, ask(two, [["GET", url + path, {}] for path in paths]), strict=True))
        open_to_all = {path: answer for path, answer in answers.items() if answer[0] != 401}
        assert set(open_to_all) == {"/livez", "/readyz", "/page/app.js"}
        assert open_to_all["/readyz"] == [200, '{"ready":true}']
        changed = ask(two, [[method, url + "/api/v1/agents", {}] for method in ("POST", "DELETE", "OPTIONS")])
        assert {status for status, _ in changed} == {401}
        [shell] = ask(two, [["GET", url + "/", {"Accept": "text/html"}]])
        assert (shell[0], "0.0.0.0" in shell[1]) == (200, False)
        with_token = ask(two, [["GET", url + path, token] for path in ("/api/v1/agents", "/metrics", "/api/v1/stream")])
        assert {status for status, _ in with_token} == {200}
        port = f"{two.address}:15051"
        shown = {"authorization": f"Bearer {AGENTS}"}
        assert [name for name, _ in ask(two, [["GRPC", port, {}], ["GRPC", port, shown]])] == ["UNAUTHENTICATED", "OK"]
        for _ in range(10):
            ask(two, [["GET", url + "/api/v1/agents", {"Authorization": "Bearer guess"}]])
        assert [status for status, _ in ask(two, [["GET", url + "/api/v1/agents", token]])] == [429]
    finally:
        assert worker.stop() == 0


@pytest.mark.parametrize(
    ("tokens", "setting"), [((), "web_auth.view_tokens"), (("WEB_AUTH__VIEW_TOKENS",), "gateway.agent_token")]
)
def test_a_worker_without_tokens_does_not_listen_there(two: Machines, tokens: tuple[str, ...], setting: str) -> None:
    """It ends with a line that names the setting and the flag; nothing has listened by then."""
    env = {"PATH": "/usr/bin:/bin", "VIEW": VIEW, "AGENTS": AGENTS}
    env |= {f"PARALLAX_{name}": TOKENS[f"PARALLAX_{name}"] for name in tokens}
    command = two.on_worker(*parallax("worker", "--bootstrap-servers", "127.0.0.1:1", *WIDE))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert setting in done.stderr
    assert "--insecure" in done.stderr
    assert done.stderr.count("\n") == 1
