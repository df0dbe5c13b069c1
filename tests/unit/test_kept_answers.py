"""A cached answer keeps all that its agent said: in memory, and for the next owner of its partition."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson

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
