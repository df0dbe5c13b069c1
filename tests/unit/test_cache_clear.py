"""Cached answers that somebody asked to forget: in memory, on the state topic, and for owners to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from schemas.codec import Rejected, validate
from schemas.messages import Control
from streams.testing.virtual_partition import VirtualControls
from tests.support.dispatching import Dispatching
from tests.support.wait import settle

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Dispatching]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes handlers and closes them."""
    made: list[Dispatching] = []

    def build(**fields: Any) -> Dispatching:
        made.append(Dispatching(**fields))
        made[-1].register(id="a2", endpoint="http://h")
        return made[-1]

    yield build
    for one in made:
        one.handler.close()
    await settle()


def state(one: Dispatching) -> dict[bytes, bytes | None]:
    """What the next commit writes of answers, by key."""
    return {o.key or b"": o.value for o in one.handler.changes() if b"/answer/" in (o.key or b"")}


async def ask(one: Dispatching, offset: int, target: str, payload: Any = 1) -> bool:
    """Whether this task is answered from the cache. A while after what was before: of the same ms nothing is kept."""
    await asyncio.sleep(0.002)
    one.take(offset, target=target, payload=payload)
    return bool((await one.result(offset))["cached"])


async def test_answers_of_one_agent_or_all_are_forgotten(make: Make) -> None:
    """In memory at once, on the state topic with the commit that follows; the partition is told that there is one."""
    one = make()
    assert [await ask(one, n, target) for n, target in enumerate(("a1", "a2", "a1", "a2"))] == [
        False,
        False,
        True,
        True,
    ]
    kept = state(one)
    assert [value is not None for value in kept.values()] == [True, True]
    touched = one.partition.touched
    one.handler.clear_cache("a1")
    assert one.partition.touched > touched
    assert list(state(one).values()) == [None]
    assert [await ask(one, n, target) for n, target in ((4, "a1"), (5, "a2"))] == [False, True]
    state(one)
    one.handler.clear_cache(None)
    assert state(one) == dict.fromkeys(kept)
    assert state(one) == {}
    assert [await ask(one, n, target) for n, target in ((6, "a1"), (7, "a2"))] == [False, False]


async def test_a_slot_that_is_used_again_before_the_commit_is_written_not_erased(make: Make) -> None:
    """The newest counts."""
    one = make()
    await ask(one, 0, "a1")
    one.handler.clear_cache(None)
    await ask(one, 1, "a1")
    [value] = state(one).values()
    assert value is not None


async def test_an_answer_to_a_task_that_came_before_is_not_kept(make: Make) -> None:
    """It may be of the kind that was to be forgotten."""
    one = make()
    one.transport.gate.clear()
    one.take(0, payload=1)
    await settle()
    one.handler.clear_cache("a1")
    one.transport.gate.set()
    await one.result(0)
    assert await ask(one, 1, "a1") is False
    assert await ask(one, 2, "a1") is True


async def test_an_agent_that_is_registered_otherwise_is_asked_again(make: Make) -> None:
    """At another endpoint, or with its answers read in another way; new limits and another place in the gateway keep answers."""
    one = make()
    first = one.register(id="a1", endpoint="http://h", metadata={"valuePath": "value"})
    one.handler.agent_changed("a1", first)
    assert [await ask(one, n, "a1") for n in (0, 1)] == [False, True]
    offset = 2
    for changes, cached in (
        ({"limits": {"maxRequests": 7}, "metadata": {"valuePath": "value", "gateway": {"node": "n"}}}, True),
        ({"metadata": {"valuePath": "other"}}, False),
        ({"endpoint": "http://new"}, False),
        ({"endpoint": "http://new", "confidence": {"from": "constant", "value": 0.9}}, False),
    ):
        fields = {"id": "a1", "endpoint": "http://h", "metadata": {"valuePath": "other"}} | changes
        one.handler.agent_changed("a1", one.register(**fields))
        assert [await ask(one, offset, "a1"), await ask(one, offset + 1, "a1")] == [cached, True], changes
        offset += 2


async def test_answers_of_an_earlier_owner_are_forgotten_with_the_registration(make: Make) -> None:
    """This owner never called the agent, so nobody knows what they were given under."""
    one = make()
    await ask(one, 0, "a1")
    again = make(kept=[value for value in state(one).values() if value is not None])
    again.handler.agent_changed("a1", again.register(id="a1", endpoint="http://new"))
    assert await ask(again, 0, "a1") is False


async def test_a_worker_without_a_cache_leaves_no_answers_for_one_with_a_cache(make: Make) -> None:
    """It cannot tell which of them an agent that changes meanwhile would give no more."""
    one = make()
    await ask(one, 0, "a1")
    rows = state(one)
    without = make(kept=list(rows.values()), cache={"enabled": False})
    without.handler.agent_changed("a1", without.register(id="a1", endpoint="http://new"))
    rows |= state(without)
    again = make(kept=[value for value in rows.values() if value is not None])
    assert await ask(again, 0, "a1") is False


async def test_the_next_owner_takes_up_nothing_older_than_the_wish(make: Make) -> None:
    """Also if nobody owned the partition when it came; what was kept since is taken up."""
    one = make()
    await ask(one, 0, "a1")
    kept = [value for value in state(one).values() if value is not None]
    at_ms = one.wall_ms()
    again = make(kept=kept)
    assert await ask(again, 0, "a1") is True
    assert await ask(make(kept=kept, cleared_ms=at_ms + 1000), 0, "a1") is False
    assert await ask(make(kept=kept, cleared_ms=at_ms - 60_000), 0, "a1") is True


def test_the_wish_is_a_control() -> None:
    """With an agent or without; nothing else changes for cancel."""
    assert validate(Control, {"type": "cache-clear"}).agent_id is None
    assert validate(Control, {"type": "cache-clear", "agentId": "a"}).agent_id == "a"
    with pytest.raises(Rejected):
        validate(Control, {"type": "cancel"})
    with pytest.raises(Rejected):
        validate(Control, {"type": "cache-wipe"})


def test_the_table_of_controls_tells_and_remembers() -> None:
    """The latest request for an agent, or for all."""
    told: list[str | None] = []
    table = VirtualControls(options={}, prefix="t.", on_cancel=lambda _: None, on_clear=told.append)
    for at_ms, agent_id in ((10, "a"), (30, None), (20, "b"), (40, "b")):
        request = {"type": "cache-clear"} | ({} if agent_id is None else {"agentId": agent_id})
        table.take(orjson.dumps(request), at_ms)
    assert told == ["a", None, "b", "b"]
    assert [table.cleared(agent_id) for agent_id in ("a", "b", "c")] == [30, 40, 30]
