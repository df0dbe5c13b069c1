"""Confidence from agreement and from a judge, with real agents behind a worker on the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from agents_io import agent
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, compute
from schemas.messages import AgentRegistration
from streams.testing import Pipeline

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120)]

NUMBERS: Iterator[int] = count()


@agent("undecided", concurrency=10)
async def undecided(payload: dict[str, Any]) -> str:
    """Says `b` once in five; remembers its answer to an Idempotency-Key."""
    return "b" if next(NUMBERS) % 5 == 1 else "a"


def rate(payload: dict[str, Any]) -> dict[str, Any]:
    """Likes short answers."""
    return {"value": 0.9 if len(payload["data"]["answer"]) < 5 else 0.2, "confidence": 1.0}


async def test_agreement_and_judge_end_to_end() -> None:
    """Judge and judged live in different partitions; answers need no confidence of their own; the agent's limits hold."""
    async with (
        FakeAgent(answer("spam", None)) as plain,
        FakeAgent(compute(rate)) as judge,
        undecided.serving() as endpoint,
        Pipeline(partitions=4) as pipeline,
    ):
        registrations = [
            {"id": "sampled", "endpoint": endpoint, "confidence": {"from": "agreement", "samples": 5, "enough": 4}},
            {"id": "judge", "endpoint": judge.endpoint, "limits": {"maxConcurrency": 1}},
            *(
                {"id": f"judged-{n}", "endpoint": plain.endpoint, "confidence": {"from": "judge", "agent": "judge"}}
                for n in range(6)
            ),
        ]
        await pipeline.add(*(AgentRegistration.model_validate(one) for one in registrations))
        result = await pipeline.client.run("sampled", {"q": 1}, cache=False)
        assert result.value == "a"
        assert result.confidence == pytest.approx(5 / 7)
        assert result.metadata["answer"]["agreement"] == {"samples": 5, "agree": 4}
        for n in range(6):
            result = await pipeline.client.run(f"judged-{n}", {"q": n})
            assert (result.value, result.confidence, result.agent_id) == ("spam", 0.9, f"judged-{n}")
        assert (len(plain.calls), len(judge.calls)) == (6, 6)
        assert judge.calls[0].payload["data"] == {"question": {"q": 0}, "answer": "spam"}
