"""What a probe of a protocol finds at an address, and what probes share.

In: a URL, responses of strangers. Out: a `Found`; members and names that may be shown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agents_io.errors import BadResponse
from agents_io.http.exchange import HttpExchange
from agents_io.rules.answer import load_json
from schemas.messages import AgentRegistration, Protocol, SecretRef

TIMEOUT_S = 3.0
MAX_BYTES = 256 * 1024
MAX_NAMES = 1000
LISTED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What answered. `said`: it in one line; `metadata`: what the registration needs to be called.

    `choices`: tools or models of which a registration names one; `endpoint`: where it is called, if not at the one asked;
    `concurrency`: how many calls it takes at once, if it reports that. `choice`: the key of `metadata` that names it;
    `choice_is_capability`: whether it must be one of `choices`, and is the one thing that the agent can do.
    """

    protocol: Protocol
    said: str
    name: str | None = None
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    endpoint: str | None = None
    concurrency: int | None = None
    choice: str | None = None
    choice_is_capability: bool = False


def asked_agent(endpoint: str, protocol: Protocol, auth: SecretRef | None) -> AgentRegistration:
    """What is at the URL, as if it was registered."""
    return AgentRegistration(id="discovered", endpoint=endpoint, protocol=protocol, auth=auth)


@asynccontextmanager
async def exchange() -> AsyncIterator[HttpExchange]:
    """Connections for one probe."""
    http = HttpExchange(max_answer_bytes=MAX_BYTES)
    try:
        yield http
    finally:
        await http.aclose()


def member(body: bytes, name: str) -> Any:
    """A member of a JSON object; None if there is none. Raises `BadResponse` for what is no JSON."""
    try:
        data = load_json(body)
    except BadResponse:
        raise BadResponse("the response is not JSON") from None
    return data.get(name) if isinstance(data, dict) else None


def names_in(given: Any) -> tuple[str, ...]:
    """The texts of a list that can be names, each once."""
    rows = given[:MAX_NAMES] if isinstance(given, list) else []
    return tuple(dict.fromkeys(name for name in rows if isinstance(name, str) and 0 < len(name) <= 256))


def count_in(value: Any) -> int | None:
    """A positive whole number; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def listed(names: tuple[str, ...]) -> str:
    """The first few, for a terminal."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(printable(name) for name in names[:LISTED]) + more


def printable(text: str) -> str:
    """A stranger's text on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:80]
