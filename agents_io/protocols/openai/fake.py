"""A scripted model behind an OpenAI-compatible API: `POST /v1/chat/completions`, `GET /v1/models`.

In: steps as for `FakeAgent`; a step's answer is what the model says. `finish`, `message` and `choices` change the envelope.
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from agents_io.fakes.dress import text_of
from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import ScriptStep


class FakeChat(FakeAgent):
    """`async with FakeChat(answer()) as model:` serves at `model.endpoint`, which ends in `/v1`."""

    finish: str = "stop"
    message: dict[str, Any] = {}
    """Members of the message beside or in place of its content."""
    choices: Any = None
    """In place of the one choice."""

    @property
    def endpoint(self) -> str:
        """The API's base."""
        return super().endpoint + "/v1"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self.play), web.get("/v1/models", self._models)]

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]}, status=200 if self.healthy else 503)

    def payload_of(self, raw: bytes) -> Any:
        """The user's text: JSON if it is JSON."""
        text = orjson.loads(raw)["messages"][-1]["content"]
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text

    def respond(self, step: ScriptStep, body: bytes, raw: bytes) -> web.Response:
        """A chat completion with the body as content."""
        text = text_of(step, body)
        if text is None:
            return super().respond(step, body, raw)
        message = {"role": "assistant", "content": text} | self.message
        choices = [{"index": 0, "finish_reason": self.finish, "message": message}]
        usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
        reply: dict[str, Any] = {"object": "chat.completion", "model": "m-1", "usage": usage}
        reply["choices"] = choices if self.choices is None else self.choices
        return web.json_response(body=orjson.dumps(reply))
