"""A pydantic-ai agent served by fasta2a, with a function in place of a model. Its card says JSON, and it takes text alone."""

from __future__ import annotations

from typing import Any

from fasta2a.pydantic_ai import agent_to_a2a
from guard import PORT, act, serve
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


class Verdict(BaseModel):
    """What the agent returns: it is wrapped as `{"result": ...}`."""

    value: str
    confidence: float
    why: str


async def model(messages: list[Any], info: AgentInfo) -> ModelResponse:
    """Does what the newest prompt says."""
    await act(str(messages[-1].parts[-1].content))
    arguments = {"value": "yes", "confidence": 0.93, "why": "so"}
    return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, arguments)])


serve(agent_to_a2a(Agent(FunctionModel(model), output_type=Verdict), url=f"http://127.0.0.1:{PORT}"))
