"""Metadata keys of a registration with protocol `openai`. Pure."""

from __future__ import annotations

from agents_io.errors import Unsupported
from agents_io.protocols.openai.rules.config import chat_config
from agents_io.rules.registrable import JSON_ANSWERS, Key, Registrable
from schemas.messages import AgentRegistration

KEYS = (
    Key("model", "text", "the model; needed", "the server's only one"),
    Key("api", "text", "`chat` (`/chat/completions`) or `responses` (`/responses`)", "`chat`"),
    Key("system", "text", "the system prompt, before how to answer"),
    Key(
        "responseFormat",
        "text",
        "`json_schema`, `json_object` or `none`",
        "`json_schema`, a simpler one if refused",
    ),
    Key("valueSchema", "object", "the JSON Schema of the value", "a string"),
    Key("strict", "flag", "whether the server must hold to the schema", "true"),
    Key("temperature", "number", "as the API has it"),
    Key("topP", "number", "`top_p`"),
    Key("maxTokens", "number", "`max_tokens`"),
    Key("maxCompletionTokens", "number", "`max_completion_tokens`, which newer models want instead"),
    Key("seed", "number", "as the API has it"),
    Key("stop", "any", "as the API has it"),
    Key("reasoningEffort", "text", "`reasoning_effort`"),
    Key("request", "object", "further members of the request"),
    Key("stream", "flag", "ask for a stream, `stream: true`", "false; true where a server offers nothing else"),
)


def _check(agent: AgentRegistration) -> None:
    chat_config(agent.metadata)
    if agent.confidence is None or agent.confidence.source != "agreement":
        return
    # A model that always gives the same answer agrees with itself.
    metadata = agent.metadata or {}
    if "seed" in metadata:
        raise Unsupported("metadata.seed: makes all samples of an agreement the same; leave it out")
    if metadata.get("temperature") == 0:
        raise Unsupported("metadata.temperature: 0 makes all samples of an agreement the same; choose one above 0")


OPENAI = Registrable((*JSON_ANSWERS, *KEYS), _check, over_http=True, has_logprobs=True)
