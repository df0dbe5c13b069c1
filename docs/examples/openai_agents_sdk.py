"""An agent of the OpenAI Agents SDK with a tool: it triages a message and states how sure it is.

pip install openai-agents
OPENAI_API_KEY=... parallax agent serve docs.examples.openai_agents_sdk:triage --port 9000
"""

from __future__ import annotations

import os

from agents import (
    Agent,
    Runner,
    function_tool,
    set_default_openai_api,
    set_default_openai_client,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from agents_io import Answer, agent

set_default_openai_api("chat_completions")  # what every OpenAI-compatible server speaks
set_default_openai_client(AsyncOpenAI(max_retries=0), use_for_tracing=False)  # retries are the pipeline's
set_tracing_disabled(True)  # traces would go to OpenAI


class Triage(BaseModel):
    """What the model returns."""

    team: str
    confidence: float


@function_tool
def teams() -> list[str]:
    """The teams a message may go to."""
    return ["billing", "delivery", "returns"]


dispatcher = Agent(
    name="dispatcher",
    instructions="Choose the team that answers this message.",
    model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
    tools=[teams],
    output_type=Triage,
)


@agent("triage", capabilities=["triage"], concurrency=20)
async def triage(payload: dict[str, str]) -> Answer:
    """One run of at most five turns."""
    run = await Runner.run(dispatcher, payload["text"], max_turns=5)
    chosen = run.final_output_as(Triage)
    return Answer(chosen.team, chosen.confidence)


if __name__ == "__main__":
    triage.serve(port=int(os.environ.get("PORT", "9000")))
