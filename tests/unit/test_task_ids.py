"""One id sent twice has one result, whatever decides between the two sends which agent its tasks go to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations
from typing import Any

import orjson
import pytest

from schemas.messages import Task
from schemas.partitioning import owner_partition
from streams.rules.dispatch.builtins import builtin_id
from streams.rules.dispatch.routing import MAX_HOPS
from streams.rules.dispatch.task_ids import comparison, first_comparison
from streams.rules.records import Output
from streams.rules.source_record import AGENT_HEADER, EXPIRES_HEADER, HOPS_HEADER
from tests.support.coordinating import Coordinating
from tests.support.dispatching import Dispatching, Make
from tests.support.dispatching import make as make
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time

PARTITIONS = 4
FLY: dict[str, Any] = {"target": None, "capabilities": ["fly"], "metadata": {"cache": False, "retries": 0}}
LOCAL = {"name": "p", "plan": {"tasks": [{"id": "a", "type": "agent", "target": "a1", "payload": 1}]}}


class Pipeline:
    """Dispatch of all partitions, and plans: records move between them as they would over the topics."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, bytes | None], bytes] = {}
        self._offset = 0
        self.plans = Coordinating()
        self.dispatch: list[Dispatching] = []
        self.restart()

    def restart(self, template: bool = False, **fields: Any) -> None:
        """All workers end, and others begin with these settings."""
        self.close()
        self.dispatch = []
        for number in range(PARTITIONS):
            kept = [value for (n, _), value in self._rows.items() if n == number]
            self.dispatch.append(Dispatching(number, PARTITIONS, kept, **fields))
        for templates in (self.plans.templates, *(one.templates for one in self.dispatch)):
            templates.clear()
            if template:
                templates["p"] = LOCAL
        self.plans.restart()

    def close(self) -> None:
        """Keep what the next owners will find."""
        for number, one in enumerate(self.dispatch):
            self._rows |= {(number, output.key): output.value or b"" for output in one.handler.changes()}
            one.handler.close()

    async def send(self, entry: int, **task: Any) -> list[str]:
        """Send a task to partition `entry`, and follow it: the statuses of its results."""
        source, value, headers, hops = "tasks", orjson.dumps({"payload": {}} | task), (), 0
        while hops < 4:
            outputs = await self._processed(entry, source, value, headers)
            moved = [output for output in outputs if output.topic == "dispatch"]
            if not moved:
                return [status for output in outputs for status in self._statuses(output)]
            [forward] = moved
            assert forward.partition is not None
            assert forward.partition != entry
            entry, source, headers, hops = forward.partition, "dispatch", tuple(forward.headers), hops + 1  # type: ignore[assignment]
        raise AssertionError("it circulates")

    async def _processed(self, number: int, source: str, value: bytes, headers: Any) -> list[Output]:
        one, self._offset = self.dispatch[number], self._offset + 1
        offset = self._offset
        one.take(offset, value, source=source, headers=headers)
        await until(lambda: any(o == offset for _, o, _ in one.partition.ended))
        [outputs] = [outputs for _, o, outputs in one.partition.ended if o == offset]
        return outputs

    def _statuses(self, output: Output) -> list[str]:
        if output.topic == "results":
            return [orjson.loads(output.value or b"")["status"]]
        if output.topic != "plans":
            return []
        written = self.plans.take(
            "plans", output.value, key=(output.key or b"").decode(), headers=tuple(output.headers)
        )
        steps = [row["value"]["id"] for row in written if row["topic"] == "tasks"]
        for step in steps:
            written += self.plans.step("task:t", 0, taskId=step)
        return [row["value"]["status"] for row in written if row["topic"] == "results"]


@pytest.fixture
async def pipeline() -> AsyncIterator[Pipeline]:
    """Closed at the end."""
    made = Pipeline()
    yield made
    made.close()


TASKS: dict[str, dict[str, Any]] = {
    "agent": {"type": "agent", "target": "a"},
    "capability": {"type": "agent", "capabilities": ["c"]},
    "function": {"type": "function", "target": "f"},
    "pattern": {"type": "pattern", "target": "p"},
    "http": {"type": "http", "target": "https://H/x?y"},
    "no URL": {"type": "http", "target": "h"},
}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("metadata", [{}, {"orderingKey": "k"}], ids=["plain", "ordered"])
def test_where_an_id_is_compared(kind: str, metadata: dict[str, Any]) -> None:
    """By the task alone, or first by the task and then by its agent; never twice in one scope."""
    task = Task.model_validate({"id": "t", "payload": 1, "metadata": metadata} | TASKS[kind])
    first = first_comparison(task)
    if kind in ("agent", "function"):
        assert first is None
        name = task.target if kind == "agent" else builtin_id(task)
        assert comparison(task, "") == comparison(task, name or "") == (name, name)
        return
    assert first is not None
    assert first.key == metadata.get("orderingKey", "t")
    assert first.scope not in (builtin_id(task), task.target)
    assert comparison(task, "") == first
    assert comparison(task, "x") == ("x", "x")


PATTERNS: dict[str, dict[str, Any]] = {
    "a template": {"template": True, "patterns": False},
    "a template beside a control plane": {"template": True},
    "the control plane": {},
    "nothing": {"patterns": False},
}
HOSTS: dict[str, dict[str, Any]] = {
    "its host": {"allow": ["a.wide"]},
    "a wildcard": {"allow": ["*.wide"]},
    "nothing": {"allow": []},
}


@pytest.mark.parametrize("again", range(PARTITIONS))
@pytest.mark.parametrize(("first", "second"), list(permutations(PATTERNS, 2)))
async def test_a_pattern_that_becomes_a_template_or_is_none_any_more(
    pipeline: Pipeline, first: str, second: str, again: int
) -> None:
    """Each id has one result, wherever it is sent again."""
    task = {"id": "t", "type": "pattern", "target": "p"}
    pipeline.restart(**PATTERNS[first])
    statuses = await pipeline.send(0, **task)
    assert len(statuses) == 1
    pipeline.restart(**PATTERNS[second])
    assert await pipeline.send(again, **task) == []
    pipeline.restart(**PATTERNS[first])
    assert await pipeline.send(again, **task) == []


@pytest.mark.parametrize("again", range(PARTITIONS))
@pytest.mark.parametrize(("first", "second"), list(permutations(HOSTS, 2)))
async def test_a_host_that_is_allowed_in_another_way_or_not_any_more(
    pipeline: Pipeline, first: str, second: str, again: int
) -> None:
    """The agents of a host and of a wildcard belong to different partitions; the id is compared in one."""
    assert owner_partition("http:a.wide:80", PARTITIONS) != owner_partition("http:*.wide:80", PARTITIONS)
    task = {"id": "t", "type": "http", "target": "http://a.wide/"}
    pipeline.restart(**HOSTS[first])
    statuses = await pipeline.send(0, **task)
    assert statuses == ["failure" if first == "nothing" else "success"]
    pipeline.restart(**HOSTS[second])
    assert await pipeline.send(again, **task) == []
    pipeline.restart(**HOSTS[first])
    assert await pipeline.send(again, **task) == []


async def end_while_it_waits(one: Dispatching, end: str, headers: tuple[tuple[str, bytes], ...], **task: Any) -> None:
    """A task that was forwarded here and waits is cancelled, or expires soon."""
    if end == "expired":
        headers += ((EXPIRES_HEADER, str(one.wall_ms() + 1000).encode()),)
    one.take(0, id="t", source="dispatch", headers=headers, **task)
    await asyncio.sleep(0.1)
    assert one.partition.ended == []
    if end == "cancelled":
        one.cancel_requests["t"] = "the task was cancelled"
        one.handler.cancel("t")


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_task_that_waits_in_a_wrong_partition_ends_in_the_right_one(make: Make, end: str) -> None:
    """It was forwarded often and waits before the next time. Ended here, its id would be free for a second result there."""
    agent_partition = owner_partition("a1", 4)
    one, there = (make(number=n, partitions=4) for n in ((agent_partition + 1) % 4, agent_partition))
    headers: tuple[tuple[str, bytes], ...] = ((HOPS_HEADER, str(MAX_HOPS).encode()),)
    await end_while_it_waits(one, end, headers)
    found = await one.end(0)
    assert set(found) == {"dispatch"}
    [(_, _, [forward])] = one.partition.ended
    there.cancel_requests |= one.cancel_requests
    there.take(0, forward.value, source="dispatch", headers=tuple(forward.headers))
    assert (await there.result(0))["error"]["code"] == end
    there.take(1, id="t")
    assert (await there.end(1))["events"]["type"] == "task:duplicate"


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_task_that_differently_set_workers_send_to_each_other_ends(make: Make, end: str) -> None:
    """During a rollout each takes the other's partition for its agent's. Its id was compared before, so it ends here."""
    number = owner_partition("http:a.wide:80", 4)
    one = make(number=number, partitions=4, allow=["*.wide"])
    headers: tuple[tuple[str, bytes], ...] = ((AGENT_HEADER, b"http:a.wide:80"), (HOPS_HEADER, str(MAX_HOPS).encode()))
    await end_while_it_waits(one, end, headers, type="http", target="http://a.wide/")
    assert (await one.result(0))["error"]["code"] == end


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_task_that_waited_in_vain_for_a_chosen_agent_ends_under_that_agent(make: Make, end: str) -> None:
    """Sent again by the name of that agent, which is back by then, it is a duplicate."""
    number = owner_partition("bird", 4)
    one = make(number=number, partitions=4, dispatch={"await_agent": "always"})
    headers: tuple[tuple[str, bytes], ...] = ((AGENT_HEADER, b"bird"), (HOPS_HEADER, b"1"))
    await end_while_it_waits(one, end, headers, **FLY)
    assert (await one.result(0))["error"]["code"] == end
    one.cancel_requests.clear()
    one.register(id="bird", endpoint="http://b")
    one.take(1, id="t", target="bird")
    assert (await one.end(1))["events"]["type"] == "task:duplicate"


def broken(*_: Any) -> Any:
    """A fault of our own."""
    raise ZeroDivisionError


ID = "t1"


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ({"type": "function", "target": "f"}, "function:f"),
        ({"type": "http", "target": "http://h/"}, ID),
        ({"target": "a1"}, "a1"),
        (FLY, ID),
    ],
    ids=["function", "http", "agent", "capability"],
)
@pytest.mark.parametrize("owns", [True, False], ids=["owner", "other partition"])
async def test_a_fault_of_our_own_answers_an_id_only_where_it_is_compared(
    make: Make, task: dict[str, Any], name: str, owns: bool
) -> None:
    """There it fails, and the id is answered. Elsewhere the record is a dead letter, and a replay of it is answered."""
    home = owner_partition(name, 4)
    one, there = (make(number=n, partitions=4) for n in (home if owns else (home + 1) % 4, home))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.dispatch.router.Router.route", broken)
        one.take(0, id=ID, **task)
        end = await one.end(0)
    at = one if owns else there
    at.register(id="bird", endpoint="http://b", capabilities=["fly"])
    at.take(1, id=ID, **task)
    again = await at.end(1)
    if owns:
        assert end["results"]["error"]["code"] == "internal"
        assert again["events"]["type"] == "task:duplicate"
    else:
        assert set(end) == {"dlq.tasks", "events"}
        assert "dispatch" in again or again["results"]["status"] == "success"


@pytest.mark.parametrize("first", ["name", "capability"])
async def test_by_name_and_by_capability_an_id_is_one_task_of_one_agent(make: Make, first: str) -> None:
    """The agent's partition compares both. Of another agent it is another task."""
    one = make()
    one.register(id="bird", endpoint="http://b", capabilities=["fly"])
    ways: list[dict[str, Any]] = [{"target": "bird"}, FLY]
    if first == "capability":
        ways.reverse()
    one.take(0, id="t", **ways[0])
    assert (await one.result(0))["agentId"] == "bird"
    one.take(1, id="t", **ways[1])
    assert (await one.end(1))["events"]["type"] == "task:duplicate"
    one.take(2, id="t", target="a1")
    assert (await one.result(2))["agentId"] == "a1"
