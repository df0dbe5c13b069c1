"""A Pydantic AI agent: a typed verdict whose confidence the model states itself.

pip install 'pydantic-ai-slim[openai]'
OPENAI_API_KEY=... parallax agent serve docs.examples.pydantic_ai_agent:review --port 9000
"""

from __future__ import annotations

import os

from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from agents_io import Answer, agent


class Verdict(BaseModel):
    """What the model returns."""

    approve: bool
    reason: str
    confidence: float = Field(ge=0, le=1, description="how sure you are")


provider = OpenAIProvider(openai_client=AsyncOpenAI(max_retries=0))  # retries are the pipeline's
model = OpenAIChatModel(os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), provider=provider)
reviewer = Agent(model, output_type=Verdict, instructions="Review the text for publication.")


@agent("reviewer", capabilities=["review"], concurrency=20)
async def review(payload: dict[str, str]) -> Answer:
    """One run. An exception of the model's counts as a failed attempt, which is tried again."""
    run = await reviewer.run(payload["text"])
    verdict = run.output
    return Answer(verdict.approve, verdict.confidence, extra={"reason": verdict.reason})


if __name__ == "__main__":
    review.serve(port=int(os.environ.get("PORT", "9000")))
