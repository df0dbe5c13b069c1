"""A cached answer keeps all that its agent said: in memory, and for the next owner of its partition."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson

from streams.dispatch.partition_state import PartitionState
from streams.rules.task_records import Success
from streams.settings import Settings


async def test_the_other_members_of_an_answer_move_with_it() -> None:
    """An answer without any moves as before."""
    settings = Settings()
    now_ms = 1_700_000_000_000
    answers = {
        "k1": Success(b'"yes"', 0.99, b'{"reasoning":"so","usage":{"inputTokens":3}}'),
        "k2": Success(b"1", 0.99),
    }
    first = PartitionState(number=0, settings=settings, wall_ms=lambda: now_ms)
    for key, answer in answers.items():
        run: Any = SimpleNamespace(cache_key=key, admitted_at=1.0)
        first.answers.keep(run, "a", answer, asyncio.get_running_loop().time())
    outputs = [output for output in first.changes([]) if output.value is not None]
    kept = [orjson.loads(output.value or b"")["answer"] for output in outputs]
    assert {row["key"]: row.get("metadata") for row in kept} == {
        "k1": {"reasoning": "so", "usage": {"inputTokens": 3}},
        "k2": None,
    }
    second = PartitionState(
        number=0, settings=settings, wall_ms=lambda: now_ms, values=[output.value or b"" for output in outputs]
    )
    cache: Any = second.answers._cache
    found = {key: entry.value[1] for key, entry in cache._entries.items()}
    assert found == answers
