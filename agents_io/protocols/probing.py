"""The result of probing an address for a protocol, and helpers that probes share.

In: a URL, responses of unknown servers. Out: a `Found`; members and names fit for display.
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
    """What answered. `description`: one line; `metadata`: what the registration needs.

    `choices`: tools or models of which a registration names one; `choice`: the key of `metadata` that names it;
    `choice_is_capability`: it must be one of `choices`, and is the agent's only capability. `endpoint`: where it is
    called, if not at the URL that was asked; `concurrency`: how many calls it takes at once, if it reports that.
    """

    protocol: Protocol
    description: str
    name: str | None = None
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    endpoint: str | None = None
    concurrency: int | None = None
    choice: str | None = None
    choice_is_capability: bool = False


def asked_agent(endpoint: str, protocol: Protocol, auth: SecretRef | None) -> AgentRegistration:
    """A registration for the URL, to probe with."""
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
    """A member of a JSON object; None without it. Raises `BadResponse` if the body is not JSON."""
    try:
        data = load_json(body)
    except BadResponse:
        raise BadResponse("the response is not JSON") from None
    return data.get(name) if isinstance(data, dict) else None


def names_in(given: Any) -> tuple[str, ...]:
    """The texts of a list that can be names, without repetitions."""
    rows = given[:MAX_NAMES] if isinstance(given, list) else []
    return tuple(dict.fromkeys(name for name in rows if isinstance(name, str) and 0 < len(name) <= 256))


def count_in(value: Any) -> int | None:
    """A positive whole number; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def listed(names: tuple[str, ...]) -> str:
    """The first few names, for a terminal."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(printable(name) for name in names[:LISTED]) + more


def printable(text: str) -> str:
    """Text of an unknown server, safe for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:80]
