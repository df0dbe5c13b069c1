"""A cached answer keeps all that its agent said: in memory, and for the next owner of its partition."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from schemas.messages import Task
from streams.dispatch.partition_state import PartitionState
from streams.rules.task_records import Success
from streams.settings import Settings


def run_of(payload: int) -> Any:
    """As much of a run as the cache uses."""
    task = Task(id="t", type="agent", target="a", payload=payload)
    return SimpleNamespace(task=task, cache_key=None, admitted_at=1.0)


async def test_the_other_members_of_an_answer_move_with_it() -> None:
    """An answer without any moves as before."""
    settings = Settings()
    now_ms = 1_700_000_000_000
    answers = [
        Success(b'"yes"', 0.99, b'{"reasoning":"so","usage":{"inputTokens":3}}'),
        Success(b"1", 0.99),
    ]
    now = asyncio.get_running_loop().time()
    first = PartitionState(number=0, settings=settings, wall_ms=lambda: now_ms)
    for payload, answer in enumerate(answers):
        run = run_of(payload)
        assert first.answers.find(run, now) is None
        first.answers.keep(run, "a", answer, now)
    outputs = [output for output in first.changes([]) if output.value is not None]
    kept = [orjson.loads(output.value or b"")["answer"] for output in outputs]
    assert [row.get("metadata") for row in kept] == [{"reasoning": "so", "usage": {"inputTokens": 3}}, None]
    second = PartitionState(
        number=0, settings=settings, wall_ms=lambda: now_ms, values=[output.value or b"" for output in outputs]
    )
    assert [second.answers.find(run_of(payload), now) for payload in (0, 1)] == [("a", answer) for answer in answers]


def rows_of(state: PartitionState, kept: dict[bytes, bytes]) -> list[bytes]:
    """What the state topic holds after the next commit."""
    for output in state.changes([]):
        assert output.key is not None
        kept.pop(output.key, None)
        if output.value is not None:
            kept[output.key] = output.value
    return list(kept.values())


@pytest.mark.parametrize("large", [2000, 100_000])
async def test_an_answer_that_made_room_for_another_does_not_come_back_after_its_agent_was_cleared(large: int) -> None:
    """Its row stays on the state topic when it is dropped, and a large answer is not written in its place."""
    now, settings = asyncio.get_running_loop().time(), Settings.model_validate({"cache": {"max_bytes": large + 10}})
    state, kept = PartitionState(number=0, settings=settings, wall_ms=lambda: 1_700_000_000_000), dict[bytes, bytes]()
    for payload, (agent_id, size) in enumerate((("a", 50), ("a", 50), ("b", large))):
        run = run_of(payload)
        assert state.answers.find(run, now) is None
        state.answers.keep(run, agent_id, Success(b'"%s"' % (b"x" * (size - 2)), 0.99), now)
        rows_of(state, kept)
    state.answers.clear("a", now)
    values = rows_of(state, kept)
    after = PartitionState(number=0, settings=settings, wall_ms=lambda: 1_700_000_000_000, values=values)
    assert [after.answers.find(run_of(payload), now) for payload in (0, 1)] == [None, None]


async def test_an_answer_does_not_outlive_a_change_of_its_agent_while_the_partition_has_no_owner() -> None:
    """One that gives other answers by now; not one with other limits, nor the row of an older version."""
    now_ms, now = 1_700_000_000_000, asyncio.get_running_loop().time()
    source = {"a": "before"}
    first = PartitionState(
        number=0, settings=Settings(), wall_ms=lambda: now_ms, answer_source=lambda agent_id: source[agent_id]
    )
    run = run_of(1)
    assert first.answers.find(run, now) is None
    first.answers.keep(run, "a", Success(b"1", 0.99), now)
    values = rows_of(first, {})
    older = [value.replace(b',"source":"before"', b"") for value in values]
    assert older != values
    for present, given, found in (("before", values, True), ("after", values, False), ("after", older, True)):
        source["a"] = present
        after = PartitionState(
            number=0, settings=Settings(), wall_ms=lambda: now_ms, values=given,
            answer_source=lambda agent_id: source[agent_id],
        )  # fmt: skip
        assert (after.answers.find(run_of(1), now) is not None) is found
