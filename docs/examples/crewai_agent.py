"""A crew of CrewAI as an agent: a researcher with a tool and a reviewer, whose verdict states how sure it is.

pip install crewai
OPENAI_API_KEY=... parallax agent serve docs.examples.crewai_agent:review --port 9000
"""

from __future__ import annotations

import os

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")  # read when crewai is imported
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel

from agents_io import Answer, agent


class Verdict(BaseModel):
    """What the reviewer returns."""

    team: str
    confidence: float


@tool("teams")
def teams() -> str:
    """The teams that a message can go to."""
    return "billing, delivery, other"


def crew() -> Crew:
    """A new one for each call: a crew keeps the results of its last run."""
    llm = LLM(model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"), max_retries=0)  # retries are the pipeline's
    once = {"llm": llm, "max_retry_limit": 0}
    researcher = Agent(role="researcher", goal="find the teams", backstory="knows the house", tools=[teams], **once)
    reviewer = Agent(role="reviewer", goal="choose a team", backstory="reads carefully", **once)
    look_up = Task(description="List the teams.", expected_output="a list", agent=researcher)
    choose = Task(
        description="Choose the team for: {text}", expected_output="a verdict", agent=reviewer, output_pydantic=Verdict
    )
    return Crew(agents=[researcher, reviewer], tasks=[look_up, choose])


@agent("reviewer", capabilities=["route"], concurrency=5)
async def review(payload: dict[str, str]) -> Answer:
    """One run of the crew."""
    found = (await crew().akickoff(inputs={"text": payload["text"]})).pydantic
    return Answer(found.team, found.confidence)


if __name__ == "__main__":
    review.serve(port=int(os.environ.get("PORT", "9000")))
