"""Compares a file of agents with the registry: what to write so that they agree. Pure.

In: the file's bytes (TOML, one table `[agents.ID]` per agent with the fields of an AgentRegistration), the registry.
Out: the missing registrations and removals; none if there is nothing to do, so many workers may compare. Registrations
from the file have a mark in their metadata; only those are ever removed. It reads no file and writes no record.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.codec import Rejected, validate
from schemas.messages import AgentRegistration

MARK = "registeredBy"
MAX_AGENTS = 100_000


class AgentsFileError(ValueError):
    """The file is invalid. The message is one line and names the agent and the field."""


def parse(content: bytes, mark: str) -> dict[str, AgentRegistration]:
    """Every agent of the file by id, with the mark. Raises `AgentsFileError`.

    >>> parse(b'[agents.a]\\nendpoint = "http://h"', "me")["a"].metadata
    {'registeredBy': 'me'}
    """
    try:
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AgentsFileError(f"is not TOML: {error}") from None
    tables = data.pop("agents", {})
    if data:
        raise AgentsFileError(f"{next(iter(data))}: unknown; agents are written [agents.ID]")
    if not isinstance(tables, dict) or len(tables) > MAX_AGENTS:
        raise AgentsFileError(f"agents: must be tables [agents.ID], at most {MAX_AGENTS}")
    return {agent_id: _registration(agent_id, table, mark) for agent_id, table in tables.items()}


def _registration(agent_id: str, table: Any, mark: str) -> AgentRegistration:
    where = f"agents.{agent_id}"
    if not isinstance(table, dict):
        raise AgentsFileError(f"{where}: must be a table")
    known = {info.alias or name for name, info in AgentRegistration.model_fields.items()} - {"id"}
    for name in table:
        if name not in known:  # elsewhere unknown fields are ignored; in this file one is a typing error
            near = difflib.get_close_matches(name, known, n=1)
            raise AgentsFileError(f"{where}.{name}: unknown{f'; did you mean {near[0]}?' if near else ''}")
    metadata = table.get("metadata", {})
    if not isinstance(metadata, dict):
        raise AgentsFileError(f"{where}.metadata: must be a table")
    try:
        return validate(AgentRegistration, table | {"id": agent_id, "metadata": metadata | {MARK: mark}})
    except Rejected as rejected:
        raise AgentsFileError(f"{where}: {rejected.reason}") from None


def changes(
    wanted: Mapping[str, AgentRegistration], registered: Iterable[AgentRegistration], mark: str
) -> list[tuple[str, AgentRegistration | None]]:
    """What to write: a registration that is missing or differs, or None for one the file no longer has.

    >>> old = parse(b'[agents.a]\\nendpoint = "http://h"', "me")
    >>> changes({}, old.values(), "me"), changes({}, old.values(), "you"), changes(old, old.values(), "me")
    ([('a', None)], [], [])
    """
    there = {agent.id: agent for agent in registered}
    work: list[tuple[str, AgentRegistration | None]] = [
        (agent_id, agent) for agent_id, agent in wanted.items() if there.get(agent_id) != agent
    ]
    gone = (agent.id for agent in there.values() if agent.id not in wanted and (agent.metadata or {}).get(MARK) == mark)
    return [*work, *((agent_id, None) for agent_id in gone)]
