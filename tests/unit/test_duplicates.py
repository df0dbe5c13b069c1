"""A task id is answered once; and what a partition knows moves with it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents_io.errors import ServerError
from agents_io.transport import Answer
from schemas.codec import decode
from schemas.messages import AgentStanding, HomeState
from schemas.partitioning import owner_partition
from schemas.topics import BY_NAME
from streams.rules.records import Output
from streams.rules.source_record import AGENT_HEADER, HOPS_HEADER, MOVED_HEADER, TASK_HEADER
from tests.support.dispatching import AGENT, Dispatching, Make, failing
from tests.support.dispatching import make as make
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

HERE = next(name for name in (f"t{n}" for n in range(100)) if owner_partition(name, 4) == 0)
ELSEWHERE = next(name for name in (f"t{n}" for n in range(100)) if owner_partition(name, 4) != 0)


def kept(*batches: list[Output]) -> list[bytes]:
    """What a reader of the state topic finds: the newest value of each key; every one a valid message."""
    newest: dict[bytes | None, bytes] = {}
    for output in (output for batch in batches for output in batch):
        assert (output.topic, output.partition) == ("state", 0)
        assert BY_NAME["state"].message is HomeState
        newest.pop(output.key, None)
        if output.value is not None:
            decode(HomeState, output.value)
            newest[output.key] = output.value
    return list(newest.values())


@pytest.mark.parametrize("owner", ["same", "next"])
async def test_after_the_window_an_id_is_a_new_task(make: Make, owner: str) -> None:
    """A task that is sent under the same id every other day runs each time, also where nothing else is ever sent."""
    one = make()
    one.take(0, id="nightly")
    await one.result(0)
    for number, days in enumerate((2, 40, 400), start=1):
        if owner == "next":
            one = make(kept=kept(one.handler.changes()))
        one.skew_ms = days * 24 * 3_600_000
        one.take(number, id="nightly")
        assert "results" in await one.end(number)


async def test_a_users_task_and_a_step_of_one_id_are_both_answered(make: Make) -> None:
    """Each once: the step's plan would wait for ever."""
    one = make()
    step = (("ce_source", b"/parallax/app/plans"),)
    one.take(0, id="p#0")
    one.take(1, id="p#0", planId="p", headers=step, payload=1)
    assert [(await one.result(offset))["status"] for offset in (0, 1)] == ["success"] * 2
    one.take(2, id="p#0")
    one.take(3, id="p#0", planId="p", headers=step, payload=1)
    for offset in (2, 3):
        assert (await one.end(offset))["events"]["type"] == "task:duplicate"


async def test_an_id_sent_again_is_told_to_be_a_duplicate(make: Make) -> None:
    """No call, no result: an event with the place of the record."""
    one = make()
    one.take(0, id="t")
    assert (await one.result(0))["status"] == "success"
    one.take(1, id="t", payload={"other": 1})
    end = await one.end(1)
    assert set(end) == {"events"}
    assert end["events"]["type"] == "task:duplicate"
    assert end["events"]["data"] == {"taskId": "t", "topic": "t.tasks", "partition": 0, "offset": 1}
    assert one.transport.tasks == ["t"]
    assert one.count("parallax_tasks_duplicate_total") == 1


async def test_an_id_is_a_duplicate_while_the_first_is_being_called(make: Make) -> None:
    """And the first can still be cancelled."""
    one = make()
    one.transport.gate.clear()
    one.take(0, id="t")
    await until(lambda: one.transport.tasks == ["t"])
    one.take(1, id="t")
    assert (await one.end(1))["events"]["type"] == "task:duplicate"
    one.handler.cancel("t")
    assert (await one.result(0))["status"] == "cancelled"


async def test_the_same_id_for_another_agent_is_another_task(make: Make) -> None:
    """Ids are compared where their agent lives."""
    one = make()
    one.register(id="a2", endpoint="http://h")
    one.take(0, id="t", target="a1")
    one.take(1, id="t", target="a2")
    assert [(await one.result(n))["agentId"] for n in (0, 1)] == ["a1", "a2"]


async def test_failures_are_answers_too(make: Make) -> None:
    """A failed id is not tried again under the same id: no agent, too large, of a kind that is not run, failed calls."""
    one = make(dispatch={"max_task_bytes": 200})
    one.transport.last = failing(ServerError)
    wrongs: list[dict[str, Any]] = [
        {"target": "nobody"},
        {"payload": "x" * 300},
        {"type": "function", "target": "f"},
        {"metadata": {"retries": 0}},
    ]
    for number, fields in enumerate(wrongs):
        one.take(2 * number, id=f"w{number}", **fields)
        assert (await one.result(2 * number))["status"] == "failure"
        one.take(2 * number + 1, id=f"w{number}", **fields)
        assert set(await one.end(2 * number + 1)) == {"events"}


async def test_a_refused_record_leaves_its_id_free(make: Make) -> None:
    """A dead letter is no answer: its replay is done."""
    one = make()
    one.take(0, b'{"id":"t","type":"agent"}')
    assert "dlq.tasks" in await one.end(0)
    one.take(1, id="t")
    assert (await one.result(1))["status"] == "success"


async def test_a_record_of_an_earlier_owner_on_parked_is_answered_once(make: Make) -> None:
    """Its id is free while it lies on the topic; whichever copy ends first answers, the other is a duplicate."""
    one = make()
    mine = ((AGENT_HEADER, b"a1"), (MOVED_HEADER, b"tasks/0/3"), (TASK_HEADER, b"t"))
    one.take(0, id="t")
    assert (await one.result(0))["status"] == "success"
    one.take(5, id="t", source="parked", headers=mine)
    assert (await one.end(5))["events"]["type"] == "task:duplicate"
    one.take(6, id="u", source="parked", headers=mine)
    assert (await one.result(6))["status"] == "success"


async def test_an_id_that_waits_is_not_remembered_as_answered(make: Make) -> None:
    """Behind an open circuit, its record moved out of the way: the next owner answers it."""
    one = make(breaker={"failure_threshold": 1, "reset_timeout": 60_000}, retry={"max_retries": 0})
    one.transport.script.append(failing(ServerError))
    one.take(0)
    await one.result(0)
    one.take(1, id="t")
    one.take(2, id="t")
    assert (await one.end(2))["events"]["type"] == "task:duplicate", "while it waits its id is taken"
    one.handler.unblock("tasks", [1])
    [parked] = one.partition.ended[-1][2]
    assert parked.topic == "parked"
    heir = make(kept=kept(one.handler.changes()), breaker={"failure_threshold": 1, "reset_timeout": 1})
    heir.take(2, parked.value, source="parked", headers=tuple(parked.headers))
    assert (await heir.result(2))["status"] == "success"


async def test_tasks_for_any_agent_are_compared_in_the_partition_of_their_id(make: Make) -> None:
    """Forwarded there first; a second one with the same id ends there, also when the first went on to another partition."""
    one = make(partitions=4)
    one.register(id="any", endpoint="http://h", capabilities=["fly"])
    one.take(0, id=ELSEWHERE, target=None, capabilities=["fly"])
    [(_, _, [forward])] = one.partition.ended
    assert (forward.topic, forward.partition) == ("dispatch", owner_partition(ELSEWHERE, 4))
    assert forward.key == ELSEWHERE.encode()
    assert AGENT_HEADER not in dict(forward.headers)
    one.take(1, id=HERE, target=None, capabilities=["fly"])
    one.take(2, id=HERE, target=None, capabilities=["fly"], source="dispatch")
    assert (await one.end(2))["events"]["type"] == "task:duplicate"


async def test_answered_ids_and_answers_move_to_the_next_owner(make: Make) -> None:
    """A redone id is a duplicate, a question asked before is answered from the cache, nothing is called."""
    one = make()
    one.take(0, id="t", payload={"q": 1})
    await one.result(0)
    state = kept(one.handler.changes())
    assert one.handler.changes() == []
    heir = make(kept=state)
    heir.take(1, id="t")
    assert set(await heir.end(1)) == {"events"}
    heir.take(2, id="u", payload={"q": 1})
    result = await heir.result(2)
    assert (result["cached"], result["result"], result["confidence"]) == (True, "ok", 0.9)
    assert heir.transport.calls == []


async def test_the_rate_limit_moves_to_the_next_owner(make: Make) -> None:
    """Three calls a minute are three calls a minute."""
    limits = {"maxRequests": 3, "windowMs": 60_000, "maxConcurrency": 10}
    one = make()
    one.register(**AGENT, limits=limits)
    for offset in range(2):
        one.take(offset, payload=offset)
        await one.result(offset)
    heir = make(kept=kept(one.handler.changes()))
    heir.register(**AGENT, limits=limits)
    for offset in range(2, 4):
        heir.take(offset, payload=offset, metadata={"expiresIn": 300})
    results = [await heir.result(offset) for offset in (2, 3)]
    assert [result["status"] for result in results] == ["success", "timeout"]
    assert results[1]["error"]["code"] == "expired"
    assert "rate limit" in results[1]["error"]["message"]
    assert heir.transport.tasks == ["t2"]


async def test_an_open_circuit_moves_to_the_next_owner(make: Make) -> None:
    """And failures not yet enough to open it, those of calls that are tried again included."""
    settings = {"breaker": {"failure_threshold": 2}, "retry": {"max_retries": 1, "initial_delay": 60_000}}
    one = make(**settings)
    one.transport.script.append(failing(ServerError))
    one.take(0)
    await until(lambda: "task:retrying" in one.kinds())
    assert one.partition.touched, "nothing else would bring the failure into a commit"
    first = kept(one.handler.changes())
    heir = make(kept=first, **settings)
    heir.transport.script.append(failing(ServerError))
    heir.take(0)
    await until(lambda: "circuit:open" in heir.kinds())
    last = make(kept=kept(heir.handler.changes()), **settings)
    last.take(1, metadata={"expiresIn": 20_000})
    result = await last.result(1)
    assert result["error"]["code"] == "expired"
    assert "circuit" in result["error"]["message"]
    assert last.transport.calls == []


async def test_state_that_is_not_understood_costs_itself_only(make: Make) -> None:
    """Garbage, another app's, an answer without a value: passed over."""
    one = make()
    one.take(0, id="t")
    await one.result(0)
    good = kept(one.handler.changes())
    foreign = [orjson.dumps(orjson.loads(value) | {"app": "other"}) for value in good]
    bad = [b"", b"{", b"[]", b'{"app":"x"}', b'{"app":"parallax-streams","at":1,"seen":{"sequence":0,"digests":"*"}}']
    heir = make(kept=bad + foreign)
    heir.take(1, id="t")
    assert (await heir.result(1))["status"] == "success"
    heir = make(kept=bad + good)
    heir.take(1, id="t")
    assert set(await heir.end(1)) == {"events"}


async def test_a_large_answer_is_kept_in_memory_only(make: Make) -> None:
    """State must be quick to read back."""
    one = make()
    one.transport.last = Answer("x" * 70_000, 0.9)
    one.take(0, payload={"q": 1})
    await one.result(0)
    assert sum(len(value) for value in kept(one.handler.changes())) < 2000
    one.take(1, payload={"q": 1})
    assert (await one.result(1))["cached"] is True


@pytest.mark.parametrize(
    ("asked", "name"),
    [({"target": "nobody"}, "nobody"), ({"type": "function", "target": "missing"}, "function:missing")],
    ids=["no agent", "no function"],
)
async def test_what_no_agent_answers_is_refused_where_all_records_for_it_meet(
    make: Make, asked: dict[str, Any], name: str
) -> None:
    """Three records of one id in three partitions: each is sent on to the partition of the agent; the first is refused there,
    once."""
    partition = owner_partition(name, 4)
    there = make(number=partition, partitions=4)
    for offset, number in enumerate(other for other in range(4) if other != partition):
        one = make(number=number, partitions=4)
        one.take(0, id=ELSEWHERE, **asked)
        await until(lambda one=one: bool(one.partition.ended))
        [(_, _, [forward])] = one.partition.ended
        assert (forward.topic, forward.partition) == ("dispatch", partition)
        there.take(offset, forward.value, source="dispatch", headers=tuple(forward.headers))
    assert (await there.result(0))["status"] == "failure"
    for offset in (1, 2):
        assert (await there.end(offset))["events"]["type"] == "task:duplicate"


async def test_one_that_was_chosen_for_an_agent_that_is_gone_is_refused_where_it_is(make: Make) -> None:
    """The partition of its id has let it go on: sent back there it would be its own duplicate, and have no result."""
    number = next(other for other in range(4) if other != owner_partition(ELSEWHERE, 4))
    one = make(number=number, partitions=4)
    task = {"id": ELSEWHERE, "type": "agent", "capabilities": ["fly"], "payload": {}}
    one.take(0, orjson.dumps(task), source="dispatch", headers=((AGENT_HEADER, b"gone"), (HOPS_HEADER, b"1")))
    assert (await one.result(0))["error"]["code"] == "no_agent"


FLY: dict[str, Any] = {"target": None, "capabilities": ["fly"], "metadata": {"cache": False, "retries": 0}}


@pytest.mark.parametrize("how", ["same owner", "next owner", "cancelled"])
@pytest.mark.parametrize("await_agent", ["never", "always"])
async def test_a_task_whose_agent_goes_away_while_it_waits_has_its_result(
    make: Make, how: str, await_agent: str
) -> None:
    """Id and agent have the same partition. The record lies on `parked` when no capable agent is registered any more."""
    settings = {"breaker": {"failure_threshold": 1, "reset_timeout": 60}, "dispatch": {"await_agent": await_agent}}
    one = make(**settings)
    one.agents.known.clear()
    one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    one.transport.script.append(failing(ServerError))
    one.take(0, **FLY)
    await one.result(0)
    fields = FLY | {"metadata": FLY["metadata"] | {"expiresIn": 400}}
    one.take(1, id="victim", **fields)
    one.handler.unblock("tasks", [1])
    [parked] = one.partition.ended[-1][2]
    assert parked.topic == "parked"
    at = one
    if how != "same owner":
        state = kept(one.handler.changes())
        one.handler.close()
        at = make(kept=state, **settings)
    at.agents.known.clear()
    if how == "cancelled":
        at.cancel_requests["victim"] = "the task was cancelled"
    at.take(7, parked.value, source="parked", headers=tuple(parked.headers))
    code = (await at.result(7)).get("error", {}).get("code")
    if how == "cancelled":
        assert code == "cancelled"
    elif how == "next owner":
        assert code == ("no_agent" if await_agent == "never" else "expired")
    else:
        assert code is None, "one that was taken is finished, also when its agent is unregistered"


async def test_a_task_left_on_its_topic_whose_agent_goes_away_has_its_result(make: Make) -> None:
    """Not in memory: read back it is decided anew, and is no duplicate of itself."""
    one = make(dispatch={"max_held_bytes": 1, "await_agent": "never"}, limits={"max_concurrency": 1})
    one.agents.known.clear()
    one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    one.transport.gate.clear()
    one.take(0, **FLY)
    one.take(1, id="victim", **FLY)
    await until(lambda: len(one.transport.calls) == 1)
    assert one.resting == 1
    one.agents.known.clear()
    one.transport.gate.set()
    assert (await one.result(0))["status"] == "success"
    assert (await one.result(1))["error"]["code"] == "no_agent"


async def test_a_second_record_is_a_duplicate_while_the_first_lies_on_parked(make: Make) -> None:
    """Also under the next owner, whatever agent could be chosen for the second one."""
    one = make()
    one.agents.known.clear()
    one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    one.transport.gate.clear()
    one.take(0, id="t", **FLY)
    await until(lambda: len(one.transport.calls) == 1)
    one.handler.unblock("tasks", [0])
    [parked] = one.partition.ended[-1][2]
    heir = make(kept=kept(one.handler.changes()))
    one.handler.close()
    heir.agents.known.clear()
    heir.register(id="bee", endpoint="http://b", capabilities=["fly"])
    heir.register(id="bird", endpoint="http://b", capabilities=["fly"])
    heir.agent_statuses.note(
        AgentStanding.model_validate({"agentId": "bird", "at": heir.wall_ms(), "healthy": False, "reason": "checks"})
    )
    heir.take(1, id="t", **FLY)
    heir.take(7, parked.value, source="parked", headers=tuple(parked.headers))
    ends = ["results" in await heir.end(offset) for offset in (1, 7)]
    assert sorted(ends) == [False, True], "one id, one result"


async def deliver(partitions: dict[int, Dispatching], at: int, task_id: str, offset: int) -> list[str]:
    """Send a record of this id for `a1` on its way through the partitions; the status it was answered with, if it was."""
    source, headers = "tasks", ()
    value = orjson.dumps({"id": task_id, "type": "agent", "target": "a1", "payload": {}})
    for hop in range(4):
        partition, place = partitions[at], 100 * offset + hop
        partition.take(place, value, source=source, headers=headers)
        await until(lambda partition=partition, place=place: any(o == place for _, o, _ in partition.partition.ended))  # type: ignore[misc]
        [outputs] = [outputs for _, o, outputs in partition.partition.ended if o == place]
        if outputs[0].topic != "dispatch":
            return [orjson.loads(o.value or b"")["status"] for o in outputs if o.topic == "results"]
        at, source, headers = outputs[0].partition or 0, "dispatch", tuple(outputs[0].headers)  # type: ignore[assignment]
    raise AssertionError("it goes round")


@pytest.mark.parametrize("first", [True, False], ids=["registered, then gone", "gone, then registered"])
@pytest.mark.parametrize("equal", [True, False], ids=["same partition", "other partition"])
@pytest.mark.parametrize("entry", ["partition of the id", "partition of the agent"])
async def test_one_id_sent_twice_has_one_result_whether_its_agent_comes_or_goes(
    make: Make, first: bool, equal: bool, entry: str
) -> None:
    """Both records of a named agent's task meet in the partition of the agent, registered or not."""
    agent_partition = owner_partition("a1", 4)
    names = [f"t{n}" for n in range(100)]
    task_id = next(name for name in names if (owner_partition(name, 4) == agent_partition) is equal)
    id_partition = owner_partition(task_id, 4)
    partitions = {
        n: make(number=n, partitions=4, dispatch={"await_agent": "never"}) for n in {agent_partition, id_partition}
    }
    statuses: list[str] = []
    for offset, registered in enumerate((first, not first)):
        for partition in partitions.values():
            partition.agents.known.clear()
            if registered:
                partition.register(**AGENT)
        at = id_partition if entry == "partition of the id" else agent_partition
        statuses += await deliver(partitions, at, task_id, offset + 1)
    assert statuses == ["success" if first else "failure"]


@pytest.mark.parametrize(
    ("dated", "slot"), [(True, b"7"), (False, b"8")], ids=["their row", "row of an earlier version"]
)
async def test_the_next_owner_writes_behind_the_newest_ids(make: Any, dated: bool, slot: bytes) -> None:
    """In their slot if there is room, or the one after it, whatever size the ring had: a setting decides about that, and may
    have changed.
    """
    one = make()
    one.take(0, id="t")
    await one.result(0)
    [seen] = [output for output in one.handler.changes() if b"/seen/" in (output.key or b"")]
    row = orjson.loads(seen.value or b"")
    assert (seen.key or b"").endswith(b"/seen/0")
    assert row["seen"]["slot"] == 0
    row["seen"] |= {"slot": 7}
    if not dated:
        del row["seen"]["since"]
    heir = make(kept=[orjson.dumps(row)])
    heir.take(0, id="u")
    await heir.result(0)
    keys = [output.key for output in heir.handler.changes()]
    assert any((key or b"").endswith(b"/seen/" + slot) for key in keys)
