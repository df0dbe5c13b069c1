"""What a protocol accepts in a registration. Pure.

Each protocol declares it once, in its `registration.py`: the keys of `metadata` it reads, the possible sources of
confidence, and further checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from schemas.messages import AgentRegistration

Kind = Literal["text", "version", "number", "flag", "object", "any"]
WORDS: dict[Kind, str] = {
    "text": "a text",
    "version": "a text",
    "number": "a number",
    "flag": "true or false",
    "object": "an object",
    "any": "any JSON",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One member of `metadata`. `default`: describes what applies without it."""

    name: str
    kind: Kind
    does: str
    default: str = ""

    def fits(self, value: Any) -> bool:
        """Whether the value has the key's type. A version may be a number, as TOML and JSON files have it."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        match self.kind:
            case "text":
                return isinstance(value, str)
            case "version":
                return number or isinstance(value, str)
            case "number":
                return number
            case "flag":
                return isinstance(value, bool)
            case "object":
                return isinstance(value, dict)
            case "any":
                return True


VALUE_PATH = Key("valuePath", "text", "JMESPath of the value in the answer", "`value`, else the answer itself")
TLS = Key("tls", "object", "`caFile`, `certFile`, `keyFile` for this agent", "the setting `tls`")
JSON_ANSWERS = (
    VALUE_PATH,
    Key("confidencePath", "text", "JMESPath of the confidence in the answer", "`confidence`"),
    Key("defaultConfidence", "number", "the confidence of answers that state none", "such answers are `bad_response`"),
    TLS,
)
"""Keys of protocols whose answers are JSON in the agent's own form."""


def _anything(agent: AgentRegistration) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Registrable:
    """What a protocol accepts. `keys`: without those that every protocol accepts; `check` raises `Unsupported`.

    `over_http`: the endpoint is a URL. `has_logprobs`: `confidence.from: logprobs` works. `states_confidence`: the
    protocol itself gives each answer a confidence, so a path or a constant cannot.
    """

    keys: tuple[Key, ...] = ()
    check: Callable[[AgentRegistration], None] = _anything
    over_http: bool = False
    has_logprobs: bool = False
    states_confidence: bool = False
