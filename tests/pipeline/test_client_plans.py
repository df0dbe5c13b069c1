"""Plans sent by the client: what the builders make, and ids that are sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from streams import Client, InvalidTask, dag, parallel, sequence, step
from streams.testing import FakeAgent, Pipeline

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


def echo(payload: dict[str, object]) -> object:
    return {"n": payload["n"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p() -> AsyncIterator[Pipeline]:
    async with Pipeline(agents=[FakeAgent(echo, id="echo")]) as pipeline:
        yield pipeline


async def test_plans_by_builders(p: Pipeline) -> None:
    client = p.client
    both = await client.plan(parallel([step("echo", {"n": 1}), step("echo", {"n": 2})]), wait=60)
    assert [one.result for one in both.results] == [{"n": 1}, {"n": 2}]
    assert all(one.wait_time is not None for one in both.results)
    line = await client.plan(sequence([step("echo", {"n": 3}), step("echo", {"n": 4})], my="x"), wait=60)
    assert line.status == "success"
    graph = dag({"a": step("echo", {"n": 5}), "b": step("echo", {"n": 6}, after=["a"])}, id="p1")
    assert [one.task_id for one in (await client.plan(graph, wait=60)).results] == ["a", "b"]
    with pytest.raises(InvalidTask, match="nowhere"):
        await client.plan(dag({"a": step("echo", {}, after=["nowhere"])}))
    with pytest.raises(InvalidTask, match="plan: must be what parallel, sequence and dag return, not list"):
        await client.plan([step("echo", {})])  # type: ignore[arg-type]


@pytest.mark.parametrize("plan_id", [None, "twice"])
async def test_a_plan_sent_twice_resolves_to_the_first_result(p: Pipeline, plan_id: str | None) -> None:
    """Also if the client made its id: a program may send the same plan again."""
    plan = parallel([step("echo", {"n": 7})], id=plan_id)
    async with asyncio.timeout(30):
        first = await p.client.plan(plan)
        async with Client(p.bootstrap_servers) as another:
            assert await another.plan(plan) == first
