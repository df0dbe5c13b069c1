"""`parallax tasks ls` and `parallax retry` on a whole pipeline."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from streams import InvalidTask
from streams.client.requests import Request
from streams.testing import FakeAgent, Pipeline, hang, status
from tests.support.rig import ROOT, parallax

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p() -> AsyncIterator[Pipeline]:
    agents = [
        FakeAgent("ok", id="good"),
        FakeAgent(status(500), id="bad", breaker={"mode": "disabled"}),
        FakeAgent(hang(), id="stuck"),
    ]
    async with Pipeline(agents=agents) as pipeline:
        yield pipeline


async def said(p: Pipeline, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """A command's JSON lines, and its exit code checked."""
    command = parallax(*words, "--bootstrap-servers", p.bootstrap_servers, "-o", "jsonl")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code, errors.decode()
    return [json.loads(line) for line in out.splitlines()]


async def _listed_by_agent_status_and_time(p: Pipeline) -> None:
    await p.client.run("good", {"n": 1}, id="g1")
    for name in ("b1", "b2"):
        handle = await p.client.submit("bad", {"name": name}, id=name, retries=0)
        await handle.outcome(wait=30)
    await p.client.submit("stuck", {}, id="s1")
    rows = await said(p, "tasks", "ls")
    assert {row["taskId"] for row in rows} == {"g1", "b1", "b2"}
    assert {row["taskId"]: row["code"] for row in rows} == {"g1": None, "b1": "http_5xx", "b2": "http_5xx"}
    assert [row["taskId"] for row in await said(p, "tasks", "ls", "--status", "success")] == ["g1"]
    assert {row["taskId"] for row in await said(p, "tasks", "ls", "--status", "failed", "--agent", "bad")} == {
        "b1",
        "b2",
    }
    assert [row["taskId"] for row in await said(p, "tasks", "ls", "--status", "waiting")] == ["s1"]
    assert [row["taskId"] for row in await said(p, "tasks", "ls", "--max", "1")] == ["b2"]
    assert await said(p, "tasks", "ls", "--since", "1ms") == []
    await said(p, "tasks", "ls", "--since", "yesterday", code=2)


async def _retried_by_id_and_all_that_failed_once_each(p: Pipeline) -> None:
    bad = FakeAgent("well now", id="bad")
    await p.add(bad)
    retried = await said(p, "retry", "b1")
    assert [row["retryOf"] for row in retried] == ["b1"]
    handle = await p.client.handle(retried[0]["taskId"])
    assert (await handle.result(wait=30)).value == "well now"
    again = await said(p, "retry", "--failed", "--agent", "bad")
    assert [row["retryOf"] for row in again] == ["b2"]
    result = await (await p.client.handle(again[0]["taskId"])).result(wait=30)
    assert (result.value, result.metadata["retryOf"]) == ("well now", "b2")
    assert await said(p, "retry", "--failed", "--agent", "bad") == []
    assert len(bad.calls) == 2
    await p.add(FakeAgent([status(500, times=1), hang()], id="slow"))
    await (await p.client.submit("slow", {}, id="x1", retries=0)).outcome(wait=30)
    assert [row["retryOf"] for row in await said(p, "retry", "--failed", "--agent", "slow")] == ["x1"]
    assert await said(p, "retry", "--failed", "--agent", "slow") == []
    await said(p, "retry", "unheard", code=4)
    await said(p, "retry", code=2)
    await said(p, "retry", "b1", "--failed", code=2)


async def _dead_letters_do_not_wait(p: Pipeline) -> None:
    """They are reported as what they are by each command that looks at the topic."""
    value = b'{"id":"dead","type":"agnt","target":"good","payload":1}'
    await p.client.send("tasks", Request("dead", b"good", value))
    assert "dead" not in [row["taskId"] for row in await said(p, "tasks", "ls", "--status", "waiting")]
    [explained] = await said(p, "explain", "dead")
    assert (explained["status"], explained["reason"][:26]) == ("dead-lettered", "it is no valid task: type:")
    [shown] = await said(p, "task", "dead")
    assert (shown["type"], shown["data"]["reason"][:5]) == ("task:dead-lettered", "type:")
    await said(p, "retry", "dead", code=2)
    with pytest.raises(InvalidTask, match="is no valid task: type:"):
        await p.client.retry("dead")


async def test_tasks_are_listed_and_those_that_failed_retried_once_each(p: Pipeline) -> None:
    """One test: what is retried was listed before, and pytest's workers share no pipeline."""
    await _listed_by_agent_status_and_time(p)
    await _retried_by_id_and_all_that_failed_once_each(p)
    await _dead_letters_do_not_wait(p)
