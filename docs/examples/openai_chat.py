"""An agent over an OpenAI-compatible server: its confidence is the mean probability of the answer's tokens.

    OPENAI_BASE_URL=http://localhost:11434/v1 OPENAI_MODEL=llama3.2 parallax agent serve docs.examples.openai_chat:ask --port 9000

The protocol `openai` calls such a server without any code; an agent of your own decides what the confidence is.
"""

from __future__ import annotations

import os

import httpx
from pydantic import BaseModel

from agents_io import Answer, Declined, agent, current_call, from_logprobs


class Question(BaseModel):
    """What the agent is asked."""

    task: str
    system: str = "Answer in one short sentence."


@agent("assistant", capabilities=["chat"], concurrency=20)
async def ask(question: Question) -> Answer:
    """One completion. The deadline of the call is the deadline of the request."""
    body = {
        "model": os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
        "messages": [{"role": "system", "content": question.system}, {"role": "user", "content": question.task}],
        "logprobs": True,
    }
    headers = {"authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    base = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    async with httpx.AsyncClient(timeout=min(current_call().timeout_s, 60.0)) as http:
        response = await http.post(f"{base}/chat/completions", json=body, headers=headers)
    if response.status_code in (400, 401, 403, 404):
        raise Declined(f"the model's server refuses: {response.status_code} {response.text[:200]}")
    response.raise_for_status()
    said = response.json()
    choice = said["choices"][0]
    confidence = from_logprobs(choice["logprobs"]["content"])
    return Answer(choice["message"]["content"], confidence, extra={"usage": said.get("usage")})


if __name__ == "__main__":
    ask.serve(port=9000)
