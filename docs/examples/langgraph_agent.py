"""A LangGraph graph: three drafts side by side, and an agent that is as confident as they agree.

pip install langgraph openai
OPENAI_API_KEY=... parallax agent serve docs.examples.langgraph_agent:decide --port 9000
"""

from __future__ import annotations

import operator
import os
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from openai import AsyncOpenAI

from agents_io import agent, from_agreement


class State(TypedDict):
    """What flows through the graph."""

    question: str
    drafts: Annotated[list[str], operator.add]


async def draft(state: State) -> dict[str, list[str]]:
    """One answer of the model."""
    model = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
    async with AsyncOpenAI(max_retries=0) as client:  # retries are the pipeline's
        said = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": state["question"]}]
        )
    return {"drafts": [said.choices[0].message.content or ""]}


def fan_out(state: State) -> list[Send]:
    """Three drafts of one question."""
    return [Send("draft", {"question": state["question"], "drafts": []}) for _ in range(3)]


builder = StateGraph(State)
builder.add_node("draft", draft)
builder.add_conditional_edges(START, fan_out, ["draft"])
builder.add_edge("draft", END)
graph = builder.compile()


@agent("decider", capabilities=["decide"], concurrency=20)
async def decide(payload: dict[str, str]) -> tuple[str, float]:
    """The draft that most agree on."""
    state = await graph.ainvoke({"question": payload["question"], "drafts": []})
    return from_agreement(state["drafts"])


if __name__ == "__main__":
    decide.serve(port=int(os.environ.get("PORT", "9000")))
