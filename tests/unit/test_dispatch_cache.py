"""Dispatch answers from its cache: which tasks are equal, and which answers are kept."""

from __future__ import annotations

from typing import Any

import pytest

from agents_io.errors import ServerError
from agents_io.transport import Answer
from tests.support.dispatching import Make
from tests.support.dispatching import make as make

pytestmark = pytest.mark.virtual_time


async def test_a_known_answer_is_given_without_a_call(make: Make) -> None:
    """Cached, at no cost to the agent: `task:cache-hit` and `task:completed`, no `task:started`, no data point."""
    one = make()
    one.take(0, payload={"x": 1, "y": 2})
    await one.end(0)
    one.take(1, payload={"y": 2, "x": 1})
    end = await one.end(1)
    assert set(end) == {"results", "events"}
    assert (end["results"]["cached"], end["results"]["result"], end["results"]["agentId"]) == (True, "ok", "a1")
    assert (end["results"]["taskId"], end["results"]["confidence"]) == ("t1", 0.9)
    assert one.kinds() == ["task:started", "task:cache-hit"]
    assert one.transport.tasks == ["t0"]
    assert one.count("parallax_cache_hits_total") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"metadata": {"cache": False}},
        {"payload": {"x": 2}},
        {"context": {"previous": 2}},
        {"metadata": {"patternName": "p"}},
        {"capabilities": ["c"]},
        {"target": "a2"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_question_is_asked(make: Make, other: dict[str, Any]) -> None:
    """Anything the agent is sent or was chosen by makes another question; so does asking for a fresh answer."""
    one = make()
    one.register(id="a2", endpoint="http://h")
    one.take(0, payload={"x": 1})
    await one.end(0)
    one.take(1, **({"payload": {"x": 1}} | other))
    assert (await one.result(1))["cached"] is False
    assert one.transport.tasks == ["t0", "t1"]


async def test_what_is_not_kept(make: Make) -> None:
    """Failures, answers of little confidence, and answers to tasks that want no cache."""
    one = make()
    one.transport.script.extend([ServerError("500"), Answer("unsure", 0.79), Answer("fresh", 1.0), Answer("last", 1.0)])
    one.take(0, metadata={"retries": 0})
    await one.end(0)
    one.take(1)
    await one.end(1)
    one.take(2, metadata={"cache": False})
    await one.end(2)
    one.take(3)
    assert (await one.result(3))["result"] == "last"


async def test_the_cache_can_be_off(make: Make) -> None:
    """Then every task is called."""
    one = make(cache={"enabled": False})
    for offset in (0, 1):
        one.take(offset)
        await one.end(offset)
    assert one.transport.tasks == ["t0", "t1"]
