"""The registrations that lie on the topic `agents`, for those who only look: as workers read them. Pure.

In: its records in order. Out: by id the newest valid ones, and why the newest record of a key is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.codec import Rejected, decode_json, validate
from schemas.messages import AgentRegistration
from schemas.wire_format import key_text


class AgentListing:
    """`found`: by id, as they were written; a record that is refused leaves the one before it, as in workers.

    `refused`: why the newest record of a key is no registration. `keys`: the keys of an id's records as bytes: one with a
    schema's id is another key to the brokers' compaction.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.keys: dict[str, set[bytes]] = {}

    def add(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        name = key_text(key, headers)
        self.refused.pop(name, None)
        if key is not None:
            self.keys.setdefault(name, set()).add(key)
        if value is None:
            self.found.pop(name, None)
            return
        try:
            data = decode_json(value, headers).data
            agent = validate(AgentRegistration, data)
            if key is not None and agent.id != name:
                raise Rejected("validate", f"id: is {agent.id!r} but the record's key is {name!r}")
            self.found[agent.id] = data
        except Rejected as rejected:
            self.refused[name] = rejected.reason

    def removal(self, name: str) -> list[bytes] | None:
        """The keys under which to write a null value to remove this id, also of a registration that is refused; None: unknown."""
        if name not in self.found and name not in self.refused:
            return None
        return sorted({name.encode(), *self.keys.get(name, ())})
