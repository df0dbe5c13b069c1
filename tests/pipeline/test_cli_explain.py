"""`parallax explain` and `parallax workers ls` on a whole pipeline."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from streams.testing import FakeAgent, Pipeline, hang, status
from tests.support.rig import ROOT, parallax
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p() -> AsyncIterator[Pipeline]:
    agents = [
        FakeAgent("ok", id="good"),
        FakeAgent(status(500), id="bad", breaker={"failureThreshold": 1, "resetTimeout": 600_000}),
        FakeAgent(hang(), id="stuck", limits={"maxRequests": 1000, "windowMs": 60_000, "maxConcurrency": 1}),
    ]
    async with Pipeline(agents=agents) as pipeline:
        yield pipeline


async def said(p: Pipeline, *words: str, code: int = 0, form: str = "json") -> Any:
    """A command's output, and its exit code checked."""
    command = parallax(*words, "--bootstrap-servers", p.bootstrap_servers, "-o", form)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code, errors.decode()
    return errors.decode() if code else json.loads(out) if form == "json" else out.decode()


async def held(p: Pipeline, task_id: str, reason: str) -> None:
    """Until the worker holds the task for this reason."""
    async with httpx.AsyncClient(base_url=p.web) as http:

        async def waits() -> bool:
            answer = await http.get(f"/api/v1/tasks/{task_id}/waiting")
            return answer.status_code == 200 and answer.json()["reason"] == reason

        await until(waits, 30)


async def test_tasks_that_wait_and_that_ended_are_explained(p: Pipeline) -> None:
    """Behind an open circuit, being called, behind it, answered, failed; and one nobody knows."""
    await p.client.run("good", {}, id="g1")
    await p.client.submit("bad", {}, id="b1", expires_in="1h")
    await p.client.submit("stuck", {}, id="s1")
    await held(p, "s1", "calling")
    await p.client.submit("stuck", {"n": 2}, id="s2")
    await held(p, "s2", "concurrency")
    await held(p, "b1", "circuit_open")
    web = ("--web", p.web)
    waits = await said(p, "explain", "b1", *web)
    assert (waits["status"], waits["code"], waits["agentId"]) == ("waiting", "circuit_open", "bad")
    assert waits["lastFailure"].startswith("attempt 1 of 3: http_5xx")
    assert waits["since"] < waits["until"] < waits["deadline"]
    assert "parallax agents probe bad" in waits["remedy"]
    assert "; the last one with http_5xx: " in waits["reason"]
    assert (await said(p, "explain", "s1", *web))["status"] == "calling"
    assert (await said(p, "explain", "s2", *web))["code"] == "concurrency"
    good = await said(p, "explain", "g1", *web)
    assert (good["status"], good["code"], good["remedy"]) == ("success", None, None)
    handle = await p.client.submit("nobody", {}, id="n1")
    await handle.outcome(wait=30)
    failed = await said(p, "explain", "n1", *web)
    assert (failed["status"], failed["code"]) == ("failure", "no_agent")
    assert "parallax agents add" in failed["remedy"]
    text = await said(p, "explain", "b1", *web, form="text")
    assert text.splitlines()[0] == "task b1: waiting (circuit_open)"
    assert "goes on:" in text
    away = await said(p, "explain", "s2", "--web", "http://127.0.0.1:9")
    assert away["code"] == "no_worker"
    unheard = await said(p, "explain", "unheard", *web, code=4)
    assert re.search(r"no record of it since \d{4}-.*Z; search further back with --since", unheard)
    assert "parallax plan unheard" in unheard
    assert "--web: must be http://HOST:PORT" in await said(p, "explain", "b1", "--web", "worker", code=2)


async def test_a_task_for_later_is_explained(p: Pipeline) -> None:
    """By the worker that keeps it, with its time."""
    await p.client.submit("good", {}, id="later1", not_before="2096-01-01T00:00:00Z")
    await held(p, "later1", "not_before")
    found = await said(p, "explain", "later1", "--web", p.web)
    assert (found["code"], found["until"]) == ("not_before", "2096-01-01T00:00:00.000Z"), found
    assert "its time has not come" in found["reason"]


async def test_workers_are_listed_once_each(p: Pipeline) -> None:
    """What the worker says of itself; one address twice is one worker; one that is away is named."""
    [worker] = await said(p, "workers", "ls", "--web", p.web, "--web", p.web + "/")
    assert (worker["roles"], worker["ready"], worker["web"]) == (["dispatch", "plans", "schedules"], True, p.web)
    assert worker["partitions"] == {role: [0, 1, 2, 3] for role in ("dispatch", "plans", "schedules")}
    assert set(worker["tasks"]) == {"calling", "waiting"}
    text = await said(p, "workers", "ls", "--web", p.web, form="text")
    assert "dispatch 0-3 plans 0-3" in text
    errors = await said(p, "workers", "ls", "--web", "http://127.0.0.1:9", code=1)
    assert "http://127.0.0.1:9: " in errors
    assert "no worker answers" in errors


async def test_bad_filters_of_tasks_name_the_option(p: Pipeline) -> None:
    assert "--since: 2999-01-01T00:00:00Z is in the future" in await said(
        p, "tasks", "ls", "--since", "2999-01-01T00:00:00Z", code=2
    )
    assert "--agent: an id has 1 to 256 characters" in await said(p, "tasks", "ls", "--agent", "", code=2)
    assert "--status" in await said(p, "tasks", "ls", "--status", "lost", code=2)
