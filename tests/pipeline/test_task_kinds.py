"""Functions, http requests and patterns through a worker on the embedded broker; secrets; a cache that is cleared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from agents_io.fakes.http import FakeAgent
from schemas.topics import TOPICS, dead_letter_topics, full_name
from tests.pipeline.test_dispatch_embedded import pipeline as pipeline  # a fixture
from tests.support.pipeline import Pipeline, stop
from tests.support.points import read_all
from tests.support.rig import Process, parallax, start_worker

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]
SECRET = "c4nary-f0r-grep"


@asynccontextmanager
async def worker_with(pipeline: Pipeline, log: Path, **env: str) -> AsyncIterator[Process]:
    """A worker with these settings, its log in a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_WORKER_LOG", str(log))
        options = ("--roles", "dispatch", "--instance-id", "w1", "--session-timeout", "6s", "-o", "json")
        worker = start_worker(pipeline.bootstrap, pipeline.prefix, *options, env=env, wait=False)
    pipeline.workers.append(worker)
    pipeline.web = orjson.loads(await asyncio.to_thread(worker.line, 90))["web"]
    yield worker
    await stop(worker)


@asynccontextmanager
async def control_plane() -> AsyncIterator[str]:
    """Executes `echo`, knows nothing else."""

    async def execute(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if request.match_info["name"] != "echo":
            return web.json_response({"error": "unknown pattern"}, status=404)
        execution = {"id": "e", "status": "completed", "result": body["input"], "metrics": {"averageConfidence": 0.5}}
        return web.json_response({"execution": execution, "duration": 1})

    app = web.Application()
    app.router.add_post("/api/patterns/{name}/execute", execute)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def echo(sent: list[str]) -> AsyncIterator[str]:
    """A server that refuses everybody and repeats what it was sent, first of all what looks like a secret."""

    async def refuse(request: web.Request) -> web.Response:
        texts = [f" {text}" for text in (*request.headers.values(), *request.query.values())]
        sent.extend(texts)
        return web.Response(status=401, text="no" + "".join(text for text in texts if SECRET in text))

    app = web.Application()
    app.router.add_post("/analyze", refuse)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def tasks(*rows: tuple[str, str, str, Any, dict[str, Any]]) -> list[tuple[str | None, Any]]:
    """Records of tasks: id, type, target, payload, metadata."""
    return [
        (None, {"id": task_id, "type": kind, "target": target, "payload": payload, "metadata": metadata})
        for task_id, kind, target, payload, metadata in rows
    ]


async def test_every_type_of_task_has_its_result(pipeline: Pipeline, tmp_path: Path) -> None:
    """Wherever its built-in agent lives; what is not allowed ends with its code; data points carry the built-in ids."""
    async with FakeAgent() as server, control_plane() as plane:
        host = server.endpoint.removeprefix("http://")
        env = {
            "PARALLAX_FUNCTIONS__MODULES": "tests.support.some_functions",
            "PARALLAX_HTTP_TASKS__ALLOW": host,
            "PARALLAX_CONTROL_PLANE__URL": plane,
            "PARALLAX_RETRY__INITIAL_DELAY": "10ms",
        }
        async with worker_with(pipeline, tmp_path / "log", **env):
            await pipeline.send(
                "tasks",
                tasks(
                    ("f1", "function", "double", {"n": 21}, {}),
                    ("f2", "function", "sure", {"text": "a"}, {}),
                    ("f3", "function", "broken", {}, {}),
                    ("f4", "function", "picky", {}, {}),
                    ("f5", "function", "os.system", "true", {}),
                    ("h1", "http", f"http://{host}/analyze", {"q": 1}, {}),
                    ("h2", "http", f"http://{host}/health", None, {"method": "GET"}),
                    ("h3", "http", f"http://{host}/nowhere", None, {"method": "GET"}),
                    ("h4", "http", "http://169.254.169.254/latest/meta-data", None, {"method": "GET"}),
                    ("h5", "http", f"http://localhost:{host.rpartition(':')[2]}/analyze", None, {}),
                    ("p1", "pattern", "echo", {"n": 1}, {}),
                    ("p2", "pattern", "nobody knows", {}, {}),
                ),
            )
            ids = ["f1", "f2", "f3", "f4", "f5", "h1", "h2", "h3", "h4", "h5", "p1", "p2"]
            found = await pipeline.results(ids)
    told = {name: (r.get("result"), r.get("confidence"), r.get("error", {}).get("code")) for name, r in found.items()}
    assert told == {
        "f1": (42, 1.0, None),
        "f2": ("A", 0.75, None),
        "f3": (None, None, "execution_failed"),
        "f4": (None, None, "refused"),
        "f5": (None, None, "unknown_function"),
        "h1": ({"value": "ok", "confidence": 0.9}, 0.9, None),
        "h2": (None, 1.0, None),
        "h3": (None, None, "http_4xx"),
        "h4": (None, None, "forbidden_target"),
        "h5": (None, None, "forbidden_target"),
        "p1": ({"n": 1}, 0.5, None),
        "p2": (None, None, "http_4xx"),
    }
    assert (found["f3"]["retries"], found["f4"]["retries"]) == (2, 0)
    assert len(server.calls) == 1
    points = {point["taskId"]: point for point in await pipeline.read("data-points")}
    agents = {name: point["agentId"] for name, point in points.items()}
    assert agents == {
        "f1": "function:double",
        "f2": "function:sure",
        "f3": "function:broken",
        "h1": f"http:{host}",
        "h2": f"http:{host}",
        "p1": "pattern:echo",
    }
    assert points["p1"]["patternName"] == "echo"
    assert all(agents[name] == found[name]["agentId"] for name in agents)


async def test_a_hung_function_keeps_no_worker_from_stopping(pipeline: Pipeline, tmp_path: Path) -> None:
    """Its task ends by its deadline, others go on, and SIGTERM ends the worker with 0 while it still hangs."""
    env = {"PARALLAX_FUNCTIONS__MODULES": "tests.support.some_functions", "PARALLAX_DISPATCH__STOP_TIMEOUT": "1s"}
    async with worker_with(pipeline, tmp_path / "log", **env) as worker:
        await pipeline.send(
            "tasks",
            tasks(
                ("a", "function", "hung", {}, {"timeout": 500, "retries": 0}),
                ("b", "function", "hung", {"other": 1}, {"timeout": 600_000}),
                ("c", "function", "double", {"n": 1}, {}),
            ),
        )
        found = await pipeline.results(["a", "c"])
        assert (found["a"]["status"], found["c"]["status"]) == ("timeout", "success")
        began = time.monotonic()
        assert await asyncio.to_thread(worker.stop) == 0
        assert time.monotonic() - began < 25


async def test_no_secret_is_in_any_topic_log_metric_or_page(pipeline: Pipeline, tmp_path: Path) -> None:
    """Though everybody echoes what they were sent. What an http task holds itself stands in its own record, nowhere else."""
    key_file = tmp_path / "key"
    key_file.write_text(SECRET + "-plane")  # the worker's own: no registration may refer to it
    agent_file = tmp_path / "agent-key"
    agent_file.write_text(SECRET + "-file")
    sent: list[str] = []
    async with echo(sent) as endpoint, control_plane() as plane:
        env = {
            "AGENT_SECRET": SECRET + "-env",
            "PARALLAX_CONTROL_PLANE__URL": plane,
            "PARALLAX_CONTROL_PLANE__TOKEN_FILE": str(key_file),
            "PARALLAX_HTTP_TASKS__ALLOW": endpoint.removeprefix("http://"),
        }
        auths = [
            {"env": "AGENT_SECRET"},
            {"file": str(agent_file)},
            {"env": "AGENT_SECRET", "scheme": "header", "header": "X-Api-Key"},
        ]
        names = [f"agent{number}" for number in range(3)]
        await pipeline.register(
            *({"id": n, "endpoint": endpoint, "auth": auth} for n, auth in zip(names, auths, strict=True))
        )
        hidden = {"headers": {"X-Token": SECRET + "-task"}, "query": {"key": SECRET + "-task"}}
        async with worker_with(pipeline, tmp_path / "log", **env):
            await pipeline.send(
                "tasks",
                tasks(
                    *((name, "agent", name, {}, {}) for name in names),
                    ("h", "http", endpoint + f"/analyze?k={SECRET}-task", 1, hidden),
                    ("bad", "http", f"http://u:{SECRET}-task@elsewhere/?k={SECRET}-task", 1, hidden),
                    ("p", "pattern", "nobody knows", {}, {}),
                ),
            )
            found = await pipeline.results([*names, "h", "bad", "p"])
            assert {result["status"] for result in found.values()} == {"failure"}
            pages = [str(await pipeline.get(path)) for path in ("/metrics", "/api/v1/agents", "/api/v1/partitions")]
    for secret in (f"Bearer {SECRET}-env", f"Bearer {SECRET}-file", f" {SECRET}-env", f" {SECRET}-task"):
        assert any(secret in text for text in sent), "never sent"
    told = [(page[:20], page.encode()) for page in pages] + [("log", (tmp_path / "log").read_bytes())]
    for name in (*(topic.name for topic in TOPICS), *dead_letter_topics()):
        for record in await read_all(pipeline.bootstrap, full_name(name, pipeline.prefix)):
            raw = (record.key or b"") + (record.value or b"") + b"".join(value for _, value in record.headers)
            # A task travels as its user wrote it.
            told.append((name, raw.replace(f"{SECRET}-task".encode(), b"") if name in ("tasks", "dispatch") else raw))
    assert {place for place, _ in told} >= {"log", "results", "events", "tasks", "agents", "state"}
    for place, raw in told:
        assert SECRET.encode() not in raw, (place, raw)


async def test_the_cache_is_cleared_by_command_and_stays_cleared_after_a_restart(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Of one agent; the other's answer is still there, also for the next owner."""
    async with FakeAgent() as agent:
        await pipeline.register(*({"id": name, "endpoint": agent.endpoint} for name in ("one", "two")))

        async def ask(round_number: int) -> list[bool]:
            ids = [f"{name}{round_number}" for name in ("one", "two")]
            await pipeline.send("tasks", tasks(*((task_id, "agent", task_id[:3], {"q": 1}, {}) for task_id in ids)))
            found = await pipeline.results(ids)
            return [found[task_id]["cached"] for task_id in ids]

        async with worker_with(pipeline, tmp_path / "log"):
            assert await ask(1) == [False, False]
            assert await ask(2) == [True, True]
            words = ("cache", "clear", "--agent", "one", "--bootstrap-servers", pipeline.bootstrap)
            command = Process(parallax(*words, "--topic-prefix", pipeline.prefix, "-o", "jsonl"))
            assert await asyncio.to_thread(command.run) == 0
            assert orjson.loads(command.line()) == {"agentId": "one", "asked": True}
            await asyncio.sleep(1.5)
        assert len(agent.calls) == 2
        async with worker_with(pipeline, tmp_path / "log"):
            assert await ask(3) == [False, True]
        assert len(agent.calls) == 3


async def test_a_worker_that_cannot_offer_its_functions_says_so_and_ends(pipeline: Pipeline, tmp_path: Path) -> None:
    """One line and exit 1, before it takes a task."""
    log = tmp_path / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_WORKER_LOG", str(log))
        env = {"PARALLAX_FUNCTIONS__MODULES": "px_nowhere"}
        worker = start_worker(pipeline.bootstrap, pipeline.prefix, "--roles", "dispatch", env=env, wait=False)
    pipeline.workers.append(worker)
    assert await asyncio.to_thread(worker.run) == 1
    assert "functions.modules: px_nowhere cannot be imported" in log.read_text()
    assert "Traceback" not in log.read_text()
