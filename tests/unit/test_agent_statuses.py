"""The table of standings: the newest of each, and who is told that an agent is there again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
from aiokafka.structs import ConsumerRecord

from schemas.messages import AgentStanding
from streams.agents.agent_statuses import AgentStatuses
from tests.support.partition_fakes import intake


def agent_status(**fields: Any) -> AgentStanding:
    """Of `a`."""
    return AgentStanding.model_validate({"agentId": "a", "at": 1} | fields)


def record(value: bytes | None, key: bytes = b"a") -> ConsumerRecord:
    """A record of the topic."""
    return replace(intake(0, b"{}", source="tasks"), key=key, value=value)


def test_told_of_agents_that_can_be_chosen_again_and_of_nothing_else() -> None:
    """Well with a closed or half-open circuit, and not so before."""
    table, told = AgentStatuses(), []
    table.on_available(told.append)
    table.note(agent_status(load=3))
    assert (told, table.turns) == ([], 0), "nothing was known against it"
    for fields, expected in (
        ({"circuit": "open", "openUntil": 9}, 0),
        ({"circuit": "half_open"}, 1),
        ({"circuit": "half_open", "load": 5}, 1),
        ({}, 2),
        ({"healthy": False, "reason": "checks"}, 2),
        ({"healthy": False, "reason": "checks", "circuit": "half_open"}, 2),
        ({}, 3),
    ):
        table.note(agent_status(**fields))
        assert len(told) == expected, fields
    assert table.turns == 6


def test_what_lies_on_the_topic() -> None:
    """The newest record counts; a null value forgets; what cannot be read is passed over."""
    table = AgentStatuses()
    good = orjson.dumps({"agentId": "a", "at": 1, "load": 2, "unknown": True})
    for value, load in ((good, 2), (b"{", 2), (b'{"agentId":"a"}', 2), (None, None)):
        table.apply(record(value))
        found = table.get("a")
        assert (None if found is None else found.load) == load
