"""The record on the state topic that says how far a group is: written, read back, and nobody else's business."""

from __future__ import annotations

import pytest

from schemas.codec import decode
from schemas.messages import HomeState, PlanMemory
from schemas.topics import BY_NAME
from streams.engine.kept_offsets import KeptOffsets
from streams.plans.memory import anything_under_way
from streams.rules.engine import offset_map
from streams.rules.engine.start_offsets import KeptOffset
from tests.support.dispatching import Dispatching

pytestmark = pytest.mark.virtual_time

ROWS = {
    "tasks": KeptOffset(40, offset_map.encode("t.tasks", 0, 40, [(42, 50)]), "aa", 3, 55),
    "dispatch": KeptOffset(0),
}


def record(group: str = "app-dispatch", state: str = "state") -> bytes:
    """One such record's value."""
    output = KeptOffsets(group, state, lambda: 1_700_000_000_000).record(2, ROWS)
    assert (output.topic, output.partition, output.key) == (state, 2, f"{group}/heads".encode())
    return output.value or b""


@pytest.mark.parametrize(("state", "message"), [("state", HomeState), ("plan-state", PlanMemory)])
def test_it_comes_back_as_it_was_and_is_a_message_of_its_topic(state: str, message: type) -> None:
    """Among whatever else lies there, in any order."""
    assert BY_NAME[state].message is message
    value = record(state=state)
    decode(message, value)
    kept = KeptOffsets("app-dispatch", state, lambda: 0)
    assert kept.read([b"garbage", b'{"heads":', b'{"app":"app","at":"x","heads":1}', value, b"{}"]) == ROWS


def test_another_group_s_is_not_read() -> None:
    """Two applications may share the topic."""
    assert KeptOffsets("other-dispatch", "state", lambda: 0).read([record()]) == {}
    both = [record("other-dispatch"), record()]
    assert KeptOffsets("app-dispatch", "state", lambda: 0).read(both) == ROWS


async def test_memories_pass_it_over() -> None:
    """It is no answered id, no circuit and no plan under way."""
    one = Dispatching(kept=[record()])
    one.take(0, id="t")
    assert (await one.result(0))["status"] == "success"
    one.handler.close()
    assert not anything_under_way([record("app-plans", "plan-state")], "app")
