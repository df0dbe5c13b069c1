"""How a model behind an OpenAI-compatible API is asked, from its registration. Pure.

In: a registration's metadata. Out: the request without the task's parts, or `Unsupported` that names the invalid key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agents_io.errors import Unsupported
from agents_io.protocols.openai.rules import responses

FORMATS = ("json_schema", "json_object", "none")
ASK = (
    "Answer with one JSON object and nothing else. It has these members: `value`, your answer; `confidence`, a number "
    "from 0 to 1 that tells how likely the answer is right; `reasoning`, one or two sentences on why."
)
APIS = ("chat", "responses")
_OURS = ("model", "messages", "stream", "n", "response_format")
NAMED = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxTokens": "max_tokens",
    "maxCompletionTokens": "max_completion_tokens",
    "seed": "seed",
    "stop": "stop",
    "reasoningEffort": "reasoning_effort",
}


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """How a model is asked. `template`: the request without its user message."""

    form: str
    template: dict[str, Any] = field(default_factory=dict)
    system: str = ASK
    chosen: bool = False
    """Whether the registration chooses the form: then no other one is tried."""
    api: str = "chat"
    stream: bool = False
    stream_chosen: bool = False
    """Whether the registration chooses that: then the other way is not tried."""
    stream_usage: bool = True
    """Whether the tokens used are asked for in a stream (`stream_options`)."""

    def simpler(self) -> ChatConfig | None:
        """The same with the next simpler form of answer, for a server that refuses this one; None: there is none
        left.
        """
        if self.chosen or self.form not in ("json_schema", "json_object"):
            return None
        rest = {name: value for name, value in self.template.items() if name != "response_format"}
        if self.form == "json_object":
            return replace(self, form="asked", template=rest)
        return replace(self, form="json_object", template=rest | {"response_format": {"type": "json_object"}})


def chat_config(metadata: Mapping[str, Any] | None) -> ChatConfig:
    """From a registration's metadata. Raises `Unsupported` that names what does not fit.

    `model` (needed); `system`: what the model is, said before how to answer; `temperature`, `topP`, `maxTokens`,
    `maxCompletionTokens`, `seed`, `stop`, `reasoningEffort`: as the API has them; `request`: further members of the request;
    `responseFormat`: `json_schema` (default), `json_object` or `none`; `valueSchema`: the JSON Schema of the value (default: a
    string); `strict`: whether the server must hold to the schema (default true); `api`: `chat` (default) or `responses`;
    `stream`: whether the answer is streamed.

    >>> chat_config({"model": "m", "temperature": 0}).template["temperature"]
    0
    """
    given = metadata or {}
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise Unsupported("metadata.model: an agent of protocol openai needs the name of its model")
    form = given.get("responseFormat", "json_schema")
    if form not in FORMATS:
        raise Unsupported(f"metadata.responseFormat: must be one of {', '.join(FORMATS)}")
    api, stream = given.get("api", "chat"), given.get("stream", False)
    if api not in APIS:
        raise Unsupported(f"metadata.api: must be one of {', '.join(APIS)}")
    if not isinstance(stream, bool):
        raise Unsupported("metadata.stream: must be true or false")
    for name in responses.ABSENT if api == "responses" else ():
        if name in given:
            raise Unsupported(f"metadata.{name}: the responses API has no such parameter")
    more, ours = given.get("request", {}), responses.OURS if api == "responses" else _OURS
    if not isinstance(more, dict) or any(name in more for name in ours):
        raise Unsupported(f"metadata.request: must be an object without {', '.join(ours)}")
    template = {**more, "model": model} | {wire: given[name] for name, wire in NAMED.items() if name in given}
    if form == "json_object":
        template["response_format"] = {"type": "json_object"}
    elif form == "json_schema":
        template["response_format"] = {"type": "json_schema", "json_schema": _schema(given)}
    return ChatConfig(form, template, _system(given, form), "responseFormat" in given, api, stream, "stream" in given)


def _schema(given: Mapping[str, Any]) -> dict[str, Any]:
    value, strict = given.get("valueSchema", {"type": "string"}), given.get("strict", True)
    if not isinstance(value, dict):
        raise Unsupported("metadata.valueSchema: must be a JSON Schema")
    if not isinstance(strict, bool):
        raise Unsupported("metadata.strict: must be true or false")
    members = {
        "value": value,
        "confidence": {"type": "number", "description": "from 0 to 1: how likely the value is right"},
        "reasoning": {"type": "string", "description": "one or two sentences on why"},
    }
    schema = {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
    return {"name": "answer", "strict": strict, "schema": schema}


def _system(given: Mapping[str, Any], form: str) -> str:
    system = given.get("system")
    if system is None:
        return ASK
    if not isinstance(system, str):
        raise Unsupported("metadata.system: must be a text")
    # Without a format the agent's own prompt may describe the answer. With a JSON format the prompt must
    # mention JSON, or servers refuse.
    return system if form == "none" else f"{system}\n\n{ASK}"
