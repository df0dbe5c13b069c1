"""The keys of a registration's `metadata`, of all protocols in one table. Pure.

In: a key and a text, or a registration's metadata. Out: the value in the key's type, or what does not fit; and the
table that docs/reference and `parallax agents add --help` show.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from orjson import OPT_SORT_KEYS

from agents_io.protocols.registrations import REGISTRABLE
from agents_io.rules.registrable import WORDS, Key
from schemas.exact_json import dumps, loads
from schemas.messages import AgentRegistration, Protocol

WRITTEN = ("lease", "gateway", "registeredBy", "registeredAt")
"""Keys that workers write themselves: for leases, streams of agents that dial in, the agents file and the service
Registry.
"""
COMMON = (
    Key("detectors", "any", "detectors of the agent's statistics, as `[stats.detectors]` names them"),
    Key("version", "any", "a text that the service Registry shows"),
    Key("region", "any", "a text that the service Registry shows"),
    Key("labels", "any", "an object of texts that the service Registry shows, and selects by"),
)
"""Keys for agents of every protocol."""


def _table() -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for protocol, takes in REGISTRABLE.items():
        for key in takes.keys:
            found.setdefault(key, []).append(protocol)
    return found | {key: list(REGISTRABLE) for key in COMMON}


TABLE = _table()
"""The protocols that accept a key."""
BY_NAME = {key.name: key for key in TABLE}


def answer_source(agent: AgentRegistration) -> str:
    """Equal for registrations of an agent that give the same answers: same endpoint, same protocol, read in the same way.

    Limits, leases, and where an agent that dials in is connected make no difference.

    >>> one, other = (AgentRegistration(id="a", endpoint=endpoint) for endpoint in ("http://h", "http://i"))
    >>> answer_source(one) == answer_source(one), answer_source(one) == answer_source(other), len(answer_source(one))
    (True, False, 16)
    """
    known = {name: value for name, value in (agent.metadata or {}).items() if name in BY_NAME}
    confidence = None if agent.confidence is None else agent.confidence.wire()
    source = dumps([agent.endpoint, agent.transport, confidence, known], OPT_SORT_KEYS)
    return blake2b(source, digest_size=8).hexdigest()


def read_value(name: str, text: str) -> Any:
    """The value of `--metadata NAME=TEXT`: text if the key takes text, else JSON if it is JSON. Raises ValueError.

    >>> read_value("a2aVersion", "0.3"), read_value("temperature", "0.3"), read_value("mine", "[1]"), read_value("mine", "x")
    ('0.3', 0.3, [1], 'x')
    """
    key = BY_NAME.get(name)
    if key is not None and key.kind in ("text", "version"):
        return text
    try:
        value = loads(text)
    except ValueError:
        value = text
    if key is not None and not key.fits(value):
        raise ValueError(f"metadata.{name}: must be {WORDS[key.kind]}, not {text[:40]!r}")
    return value


def misfit(protocol: Protocol, metadata: Mapping[str, Any] | None) -> str | None:
    """A sentence about the first key of this protocol whose value has the wrong type; None: all fit.

    >>> misfit("a2a", {"blocking": "yes", "mine": 1})
    "metadata.blocking: must be true or false, not 'yes'"
    """
    given = metadata or {}
    for key in (*REGISTRABLE[protocol].keys, *COMMON):
        if key.name in given and not key.fits(given[key.name]):
            return f"metadata.{key.name}: must be {WORDS[key.kind]}, not {given[key.name]!r:.40}"
    return None


def help_text() -> str:
    """The table for a terminal, a line for each key."""
    lines = [f"  {key.name} ({', '.join(protocols)}): {key.does}".replace("`", "") for key, protocols in TABLE.items()]
    return "--metadata NAME=VALUE, by protocol:\n\n" + "\n\n".join(lines)
