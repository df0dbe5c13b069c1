"""An agent that asks a model five times and is as confident as the answers agree. For models without log-probabilities.

MODEL_URL=http://localhost:9100/analyze parallax agent serve docs.examples.self_consistency:agreed --port 9000
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx

from agents_io import agent, from_agreement

SAMPLES = 5


@agent("agreed", capabilities=["answer"])
async def agreed(payload: dict[str, Any]) -> tuple[str, float]:
    """The answer most samples agree on."""
    url = os.environ.get("MODEL_URL", "http://localhost:9100/analyze")

    async with httpx.AsyncClient(timeout=30.0) as http:

        async def sample() -> str:
            response = await http.post(url, json=payload)
            response.raise_for_status()
            return str(response.json()["value"])

        answers = await asyncio.gather(*(sample() for _ in range(SAMPLES)))
    return from_agreement(answers)
