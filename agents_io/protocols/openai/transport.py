"""Calls to models behind an OpenAI-compatible API: `POST {endpoint}/chat/completions` or `/responses`, protocol
`openai`.

In: a registration whose endpoint is the API's base (usually ending in `/v1`) and whose metadata names the model. Out:
the model's answer as JSON with value and confidence, with the tokens used in its metadata, or one `AgentError`
(`rules/chat.py`; statuses as in `http/exchange.py`). If a server refuses the default `response_format`, a simpler one
is used from then on; if it only streams, a stream is requested. No tools are offered and no conversation is kept.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import httpx

from agents_io.errors import ClientError, Unsupported
from agents_io.http.exchange import HttpExchange, header, shown_body, status_error, within
from agents_io.http.peer import Peer, below
from agents_io.per_agent import PerAgent
from agents_io.protocols.openai.rules.chat import (
    answer_in,
    chat_answer,
    chat_request,
    refuses_form,
    refuses_usage,
    spent,
    wants_stream,
)
from agents_io.protocols.openai.rules.chat_stream import AnswerStream
from agents_io.protocols.openai.rules.config import ChatConfig, chat_config
from agents_io.rules.answer import Reading
from agents_io.rules.prompts import read_payload
from agents_io.transport import MAX_ANSWER_BYTES, Answer, Call
from schemas.messages import AgentRegistration


class _Model(Peer):
    """One model: where it is asked, and how."""

    __slots__ = ("completions", "config", "models")

    def __init__(self, agent: AgentRegistration) -> None:
        super().__init__(agent)
        self.config = chat_config(agent.metadata)
        self.reading = replace(self.reading, lenient=True)
        self.completions = below(self.base, "responses" if self.config.api == "responses" else "chat/completions")
        self.models = below(self.base, "models")


class OpenAiTransport:
    """Calls agents of protocol `openai`; one instance serves all of a worker's agents."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None = None, *, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """`transport`: in place of a connection pool of its own."""
        self._http = HttpExchange(transport, max_answer_bytes=max_answer_bytes)
        self._models = PerAgent(_Model)

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """One attempt. Raises `AgentError`. Cancelling it closes the connection, which makes servers stop
        generating.
        """
        return await within(call.timeout_s, lambda: self._attempt(agent, call))

    async def _attempt(self, agent: AgentRegistration, call: Call) -> Answer:
        model = self._models.get(agent)
        try:
            payload = read_payload(call.body)
        except ValueError:
            raise Unsupported("the payload is not JSON") from None
        while True:
            config = model.config
            request = model.post(model.completions, chat_request(config, payload, model.reading.logprobs), call=call)
            # Some servers stream although it was not requested.
            stream = AnswerStream(self._http.max_answer_bytes)
            response, body = await self._http.send(model, request, stream.feed, passes_on=True)
            if 200 <= response.status_code < 300:
                model.unauthorized_status = None
                streamed = stream if header(response, b"content-type").startswith(b"text/event-stream") else None
                return model.parsed(body, partial(_answer, config, model.reading, body, streamed))
            if not (config.stream or config.stream_chosen) and wants_stream(response.status_code, body):
                if model.config is config:
                    model.config = replace(config, stream=True)
                continue
            if config.stream and config.stream_usage and refuses_usage(response.status_code, body):
                if model.config is config:
                    model.config = replace(config, stream_usage=False)
                continue
            if not refuses_form(response.status_code, body) or config.form in ("none", "asked"):
                break
            simpler = config.simpler()
            if simpler is None:
                raise ClientError(
                    f"{shown_body(model, body)}; choose another metadata.responseFormat than {config.form!r}"
                )
            if model.config is config:
                model.config = simpler  # remembered: the next call does not request what was refused
        error = spent(response.status_code, body) if response.status_code in (402, 403, 429) else None
        raise error or status_error(response, shown_body(model, body), body, model, call)

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """`GET {endpoint}/models` answers 2xx in time. Raises `AgentError`; `Unsupported`: the registration cannot
        work.
        """
        model = self._models.get(agent)
        await self._http.check_health(model, model.get(model.models), model.get(model.completions), timeout_s)

    async def close(self) -> None:
        await self._http.aclose()


def _answer(config: ChatConfig, reading: Reading, body: bytes, stream: AnswerStream | None) -> Answer:
    """The answer in a 2xx: from the stream or from the body."""
    if stream is not None:
        return answer_in(stream.whole(), config.form, reading, config.api)
    return chat_answer(body, config.form, reading, config.api)
