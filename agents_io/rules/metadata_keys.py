"""What a registration's `metadata` may say, by protocol: the one place that declares it. Pure.

In: a name and a text, or a registration's metadata. Out: the value as its key wants it, or what does not fit; and the table that
docs/reference and `parallax agents add --help` show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from schemas.exact_json import loads
from schemas.messages import AgentRegistration

Kind = Literal["text", "number", "flag", "object", "any"]
ALL = ("http", "a2a", "openai", "mcp", "kafka")
EVERY = (*ALL, "grpc", "gateway")
WRITTEN = ("lease", "gateway", "registeredBy", "registeredAt")
"""What workers write themselves: about leases, streams of agents that dial in, the agents file and the service Registry."""


@dataclass(frozen=True, slots=True)
class Key:
    """One member of `metadata`. `default`: what holds without it."""

    name: str
    protocols: tuple[str, ...]
    kind: Kind
    does: str
    default: str = ""


KEYS = (
    Key("valuePath", (*ALL, "grpc"), "text", "JMESPath of the value in the answer", "`value`, else the answer itself"),
    Key("confidencePath", ALL, "text", "JMESPath of the confidence in the answer", "`confidence`"),
    Key(
        "defaultConfidence",
        ALL,
        "number",
        "the confidence of answers that state none",
        "such answers are `bad_response`",
    ),
    Key("tls", (*ALL, "grpc"), "object", "`caFile`, `certFile`, `keyFile` for this agent", "the setting `tls`"),
    Key(
        "a2aVersion",
        ("a2a",),
        "text",
        "`1.0` or `0.3`; the endpoint is the URL of the interface itself, no card is read",
        "the card's",
    ),
    Key(
        "a2aBinding",
        ("a2a",),
        "text",
        "`JSONRPC` or `HTTP+JSON`: the interface of the card, or, with `a2aVersion`, of the endpoint",
        "the card's first; `JSONRPC` with `a2aVersion`",
    ),
    Key("blocking", ("a2a",), "flag", "wait in the first request instead of asking again", "false"),
    Key("textOnly", ("a2a",), "flag", "send text alone, no data parts", "the card's input modes"),
    Key("tenant", ("a2a",), "text", "the tenant of each request", "the card's"),
    Key("tool", ("mcp",), "text", "the tool that the agent is; needed", "the server's only one"),
    Key("argumentsPath", ("mcp",), "text", "JMESPath of the arguments in the payload", "the payload"),
    Key("model", ("openai",), "text", "the model; needed", "the server's only one"),
    Key("api", ("openai",), "text", "`chat` (`/chat/completions`) or `responses` (`/responses`)", "`chat`"),
    Key("system", ("openai",), "text", "the system prompt, before how to answer"),
    Key(
        "responseFormat",
        ("openai",),
        "text",
        "`json_schema`, `json_object` or `none`",
        "`json_schema`, a simpler one if refused",
    ),
    Key("valueSchema", ("openai",), "object", "the JSON Schema of the value", "a string"),
    Key("strict", ("openai",), "flag", "whether the server must hold to the schema", "true"),
    Key("temperature", ("openai",), "number", "as the API has it"),
    Key("topP", ("openai",), "number", "`top_p`"),
    Key("maxTokens", ("openai",), "number", "`max_tokens`"),
    Key("maxCompletionTokens", ("openai",), "number", "`max_completion_tokens`, which newer models want instead"),
    Key("seed", ("openai",), "number", "as the API has it"),
    Key("stop", ("openai",), "any", "as the API has it"),
    Key("reasoningEffort", ("openai",), "text", "`reasoning_effort`"),
    Key("request", ("openai",), "object", "further members of the request"),
    Key(
        "stream",
        ("grpc", "openai", "a2a"),
        "flag",
        "take the answer from a stream: `StreamAnalyze` (the last result), `stream: true`, `message/stream`",
        "false; true where an openai or a2a server offers nothing else",
    ),
    Key(
        "cancelRecords", ("kafka",), "flag", "write a record with the header `cancel` for a cancelled request", "false"
    ),
    Key("detectors", EVERY, "any", "detectors of the agent's statistics, as `[stats.detectors]` names them"),
    Key("version", EVERY, "any", "a text that the service Registry shows"),
    Key("region", EVERY, "any", "a text that the service Registry shows"),
    Key("labels", EVERY, "any", "an object of texts that the service Registry shows, and selects by"),
)
BY_NAME = {key.name: key for key in KEYS}
_WORDS = {"text": "a text", "number": "a number", "flag": "true or false", "object": "an object", "any": "any JSON"}


def answers_alike(one: AgentRegistration, other: AgentRegistration) -> bool:
    """Whether two registrations of an agent lead to the same answers: same place, same protocol, read in the same way.

    Limits, leases, and where an agent that dials in is connected make no difference.
    """
    return _answering(one) == _answering(other)


def _answering(agent: AgentRegistration) -> tuple[Any, ...]:
    known = {name: value for name, value in (agent.metadata or {}).items() if name in BY_NAME}
    return agent.endpoint, agent.transport, agent.confidence, known


def read_value(name: str, text: str) -> Any:
    """The value of `--metadata NAME=TEXT`: text where the key wants text, else JSON if it is JSON. Raises ValueError.

    >>> read_value("a2aVersion", "0.3"), read_value("temperature", "0.3"), read_value("mine", "[1]"), read_value("mine", "x")
    ('0.3', 0.3, [1], 'x')
    """
    key = BY_NAME.get(name)
    if key is not None and key.kind == "text":
        return text
    try:
        value = loads(text)
    except ValueError:
        value = text
    if key is not None and not _fits(key.kind, value):
        raise ValueError(f"metadata.{name}: must be {_WORDS[key.kind]}, not {text[:40]!r}")
    return value


def misfit(protocol: str, metadata: Mapping[str, Any] | None) -> str | None:
    """The first key of this protocol whose value is of the wrong kind, in a sentence; None: all fit.

    >>> misfit("a2a", {"blocking": "yes", "mine": 1})
    "metadata.blocking: must be true or false, not 'yes'"
    """
    for name, value in (metadata or {}).items():
        key = BY_NAME.get(name)
        if key is None or protocol not in key.protocols or _fits(key.kind, value):
            continue
        if name == "a2aVersion" and isinstance(value, (int, float)):  # TOML and JSON files have it as a number
            continue
        return f"metadata.{name}: must be {_WORDS[key.kind]}, not {value!r:.40}"
    return None


def _fits(kind: Kind, value: Any) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "flag":
        return isinstance(value, bool)
    return kind == "any" or isinstance(value, dict)


def markdown_table() -> str:
    """The table of docs/reference/metadata-keys.md."""
    rows = [
        f"| `{key.name}` | {', '.join(key.protocols)} | {_WORDS[key.kind]}: {key.does} | {key.default} |"
        for key in KEYS
    ]
    return "\n".join(["| `metadata.` | protocols | | default |", "|---|---|---|---|", *rows])


def help_text() -> str:
    """The same for a terminal, a line for each key."""
    lines = [f"  {key.name} ({', '.join(key.protocols)}): {key.does}".replace("`", "") for key in KEYS]
    return "--metadata NAME=VALUE, by protocol:\n\n" + "\n\n".join(lines)
