"""The examples for agent frameworks, each in an environment over a fake model with the APIs of OpenAI and Gemini."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from streams import AgentServerError
from streams.testing import Pipeline
from tests.interop.environments import ROOM, ROOT, python_of

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]
START_S = 60.0


class Model:
    """What it says follows from what it is asked for: a tool's result, an object of a schema, or text."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.broken = False

    async def complete(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.asked.append(body)
        if self.broken:
            return web.json_response({"error": {"message": "overloaded"}}, status=500)
        usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
        message = {"role": "assistant", "content": None} | self._message(body)
        choice = {"index": 0, "finish_reason": "tool_calls" if "tool_calls" in message else "stop", "message": message}
        said = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
        return web.json_response(said | {"choices": [choice]})

    async def generate(self, request: web.Request) -> web.Response:
        """As Gemini: calls the tool `contract`, then the tool through which ADK takes an object of a schema."""
        body = orjson.loads(await request.read())
        self.asked.append(body)
        if self.broken:
            return web.json_response(
                {"error": {"code": 500, "message": "overloaded", "status": "INTERNAL"}}, status=500
            )
        looked_up = any("functionResponse" in part for turn in body["contents"] for part in turn["parts"])
        name, arguments = "contract", {"customer": "ACME"}
        if looked_up:
            name, arguments = "set_model_response", {"level": "high", "confidence": 0.85}
        content = {"role": "model", "parts": [{"functionCall": {"name": name, "args": arguments}}]}
        usage = {"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 17}
        candidate = {"content": content, "finishReason": "STOP"}
        return web.json_response({"candidates": [candidate], "usageMetadata": usage})

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        tools = {tool["function"]["name"] for tool in body.get("tools", ())}
        if "final_result" in tools:
            return _call("final_result", {"approve": True, "reason": "short", "confidence": 0.93})
        if "teams" in tools and body["messages"][-1]["role"] != "tool":
            return _call("teams", {})
        if "response_format" in body:
            return {"content": '{"team":"delivery","confidence":0.8}'}
        return {"content": ("blue", "Blue ", "green")[len(self.asked) % 3]}


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {"tool_calls": [{"id": "t1", "type": "function", "function": function}]}


@asynccontextmanager
async def model() -> AsyncIterator[tuple[Model, str]]:
    """It, and its address."""
    made, app = Model(), web.Application()
    app.router.add_post("/v1/chat/completions", made.complete)
    app.router.add_post("/v1beta/models/{call}", made.generate)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def running(example: str, base: str) -> Iterator[str]:
    """The example as a process, ready or not; its endpoint."""
    python = python_of({"google_adk_agent": "adk", "crewai_agent": "crewai"}.get(example, "frameworks"))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(port)}
    environment |= {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": "m"}
    environment |= {"GOOGLE_GEMINI_BASE_URL": base, "GOOGLE_API_KEY": "none"}
    log = ROOM / f"{example}-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(python), "-m", f"docs.examples.{example}"],
            cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    except BaseException:
        print(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.kill()
        process.wait(10)
        log.unlink(missing_ok=True)


async def ready(endpoint: str) -> None:
    """Until it answers."""
    async with httpx.AsyncClient() as http, asyncio.timeout(START_S):
        while True:
            try:
                if (await http.get(f"{endpoint}/health")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.2)


CASES = [
    ("pydantic_ai_agent", {"text": "a story"}, True, 0.93, 1),
    ("openai_agents_sdk", {"text": "where is my parcel?"}, "delivery", 0.8, 2),
    ("google_adk_agent", {"text": "ACME: nothing works"}, "high", 0.85, 2),
    ("langgraph_agent", {"question": "the colour of the sky?"}, "blue", 0.6, 3),
    pytest.param("crewai_agent", {"text": "where is my parcel?"}, "delivery", 0.8, 3, marks=pytest.mark.huge),
]


@pytest.mark.parametrize(("example", "payload", "value", "confidence", "calls"), CASES)
async def test_the_example_answers_through_a_worker(
    example: str, payload: dict[str, str], value: Any, confidence: float, calls: int
) -> None:
    """With its confidence; and the model's failure is the agent's, of one attempt: the framework retries nothing by itself."""
    async with model() as (played, base):
        with running(example, base) as endpoint:
            await ready(endpoint)
            async with Pipeline(agents=[{"id": "a", "endpoint": endpoint}]) as p:
                result = await p.client.run("a", payload, retries=0)
                said = result.value.strip().lower() if isinstance(result.value, str) else result.value
                assert (said, result.confidence) == (value, pytest.approx(confidence))
                assert len(played.asked) == calls
                played.broken = True
                with pytest.raises(AgentServerError):
                    await p.client.run("a", payload | {"again": "1"}, retries=0)
                assert len(played.asked) <= (calls + 1 if example == "crewai_agent" else 2 * calls)
