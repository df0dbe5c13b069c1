"""An agent of Google's Agent Development Kit with a tool: it rates how urgent a message is, and how sure it is of that.

pip install google-adk
GOOGLE_API_KEY=... parallax agent serve docs.examples.google_adk_agent:rate --port 9000
"""

from __future__ import annotations

import os

from google.adk.agents import LlmAgent
from google.adk.models import Gemini
from google.adk.runners import InMemoryRunner
from google.genai import types
from pydantic import BaseModel

from agents_io import Answer, agent


class Urgency(BaseModel):
    """What the model returns."""

    level: str
    confidence: float


def contract(customer: str) -> dict[str, str]:
    """The contract of a customer: gold or basic."""
    return {"contract": "gold" if customer == "ACME" else "basic"}


rater = LlmAgent(
    name="rater",
    model=Gemini(
        model=os.environ.get("GEMINI_MODEL", "gemini-2.5-flash"),
        retry_options=types.HttpRetryOptions(attempts=1),  # retries are the pipeline's
    ),
    instruction="Rate how urgent the message is: low, medium or high. Look up the customer's contract.",
    tools=[contract],
    output_schema=Urgency,
)
runner = InMemoryRunner(rater, app_name="rater")


@agent("rater", capabilities=["rate"], concurrency=20)
async def rate(payload: dict[str, str]) -> Answer:
    """One run in a session of its own, which is deleted afterwards: the runner keeps sessions in memory."""
    sessions, said = runner.session_service, ""
    session = await sessions.create_session(app_name="rater", user_id="parallax")
    try:
        message = types.UserContent(payload["text"])
        async for event in runner.run_async(user_id="parallax", session_id=session.id, new_message=message):
            if event.error_code:
                raise RuntimeError(f"{event.error_code}: {event.error_message}")
            if event.is_final_response() and event.content and event.content.parts:
                said = event.content.parts[0].text or ""
    finally:
        await sessions.delete_session(app_name="rater", user_id="parallax", session_id=session.id)
    urgency = Urgency.model_validate_json(said)
    return Answer(urgency.level, urgency.confidence)


if __name__ == "__main__":
    rate.serve(port=int(os.environ.get("PORT", "9000")))
