"""Schedules on the embedded broker: by the client and by the commands, from their definition to the results of their tasks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from agents_io import agent
from schemas.messages import Schedule
from streams import InvalidTask
from streams.client.errors import NotFound
from streams.testing import Pipeline
from tests.support.cli import Cli
from tests.support.cli import cli as cli
from tests.support.cli import ready as ready

TASK = '{"type":"agent","target":"a1","payload":1}'


@agent("clockwork")
async def clockwork(payload: Any) -> tuple[Any, float]:
    """Answers at once."""
    return payload, 0.9


async def test_a_schedule_of_the_client_makes_tasks_until_it_is_paused() -> None:
    """Each is answered under the name of its time; the worker shows when the next one is due."""
    async with Pipeline(agents=[clockwork]) as p:
        schedules, answered = p.client.schedules, []
        await schedules.add("tick", "clockwork", {"n": 1}, every="1s", expires_in="1m", cache=False)
        async for result in p.client.results(since="1m"):
            answered.append(result)
            if len(answered) == 3:
                break
        names = [result.task_id for result in answered]
        assert all(name.startswith("tick@") and name.endswith("Z") for name in names)
        assert len(set(names)) == 3
        assert [result.value for result in answered] == [{"n": 1}] * 3
        async with httpx.AsyncClient(base_url=p.web) as http:
            [row] = (await http.get("/api/v1/schedules")).json()
        assert (row["id"], row["everyMs"], row["next"] > row["firedUntil"]) == ("tick", 1000, True)
        paused = await schedules.pause("tick")
        assert [schedule.paused for schedule in await schedules.list()] == [paused.paused] == [True]
        assert not (await schedules.resume("tick")).paused
        await schedules.rm("tick")
        assert await schedules.list() == []


async def test_the_client_refuses_what_cannot_work() -> None:
    """Before anything is written, naming the argument."""
    async with Pipeline() as p:
        for given, reason in (
            ({"cron": "61 * * * *"}, "cron: bad minute"),
            ({"every": "10ms"}, "everyMs"),
            ({"cron": "* * * * *", "timezone": "Mars"}, "timezone"),
            ({}, "exactly one of cron or everyMs"),
            ({"every": 5, "timezone": "Europe/Berlin"}, "timezone: belongs to cron"),
            ({"every": 5, "end_at": "2020-01-01T00:00:00Z"}, "endAt: the schedule has no time before 2020"),
            (
                {"cron": "0 0 29 2 *", "end_at": datetime.now(UTC) + timedelta(minutes=1)},
                "endAt: the schedule has no time",
            ),
            ({"every": 5, "cronn": "* * * * *", "timout": 5}, "timout: is no option; did you mean timeout"),
            ({"every": 5, "id": "t1"}, "id: is no option here"),
            ({"every": 5, "deadline": "2026-01-01T00:00:00Z"}, "task.metadata.deadline"),
        ):
            with pytest.raises(InvalidTask, match=reason):
                await p.client.schedules.add("s", "a1", 1, **given)  # type: ignore[arg-type]
        for missing in (p.client.schedules.pause, p.client.schedules.resume, p.client.schedules.rm):
            with pytest.raises(NotFound, match="schedule s"):
                await missing("s")


async def test_the_commands_add_list_pause_and_remove(ready: Cli) -> None:
    """What is written is what was given."""
    added = await ready("schedules", "add", "s", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--task", TASK,
                        "--catch-up", "one", "-o", "jsonl")  # fmt: skip
    [row] = added.lines()
    assert row | {"next": None} == {
        "id": "s", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "task": orjson.loads(TASK), "catchUp": "one", "next": None,
    }  # fmt: skip
    assert (await ready("schedules", "ls", "-o", "jsonl")).lines() == [row]
    assert "Europe/Berlin" in (await ready("schedules", "ls")).out
    times = (await ready("schedules", "next", "s", "--count", "3", "-o", "jsonl")).lines()
    assert len(times) == 3
    assert times[0]["taskId"] == f"s@{row['next']}"
    [paused] = (await ready("schedules", "pause", "s", "-o", "jsonl")).lines()
    assert (paused["paused"], paused["next"]) == (True, None)
    [resumed] = (await ready("schedules", "resume", "s", "-o", "jsonl")).lines()
    assert (resumed["paused"], resumed["next"]) == (False, row["next"])
    assert (await ready("schedules", "rm", "s")).code == 0
    assert (await ready("schedules", "ls", "-o", "json")).out.strip() == "[]"
    for command in ("rm", "pause", "resume", "next"):
        assert (await ready("schedules", command, "s")).code == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("s", "--cron", "61 * * * *", "--task", TASK), "cron: bad minute"),
        (("s", "--every", "10s"), "needs ID"),
        (("s", "--every", "10s", "--task", "{"), "--task"),
        (("s", "--every", "10s", "--task", '{"type":"agent"}'), "task."),
        (("s", "--file", "-"), "--file stands alone"),
        (("s", "--every", "10s", "--timezone", "Europe/Berlin", "--task", TASK), "timezone: belongs to cron"),
        (
            ("s", "--every", "10s", "--end-at", "2020-01-01T00:00:00Z", "--task", TASK),
            "endAt: the schedule has no time",
        ),
    ],
)
async def test_the_command_refuses_what_cannot_work(ready: Cli, arguments: tuple[str, ...], reason: str) -> None:
    """Exit 2, and why."""
    ended = await ready("schedules", "add", *arguments)
    assert ended.code == 2
    assert reason in ended.err


async def test_schedules_of_a_file_are_checked_before_any_is_written(ready: Cli) -> None:
    """The line that cannot work is named."""
    good = Schedule(id="s", every_ms=5000, task=orjson.loads(TASK)).wire()
    lines = b"\n".join(orjson.dumps(row) for row in (good, good | {"id": "t", "everyMs": 1}))
    ended = await ready("schedules", "add", "--file", "-", stdin=lines)
    assert (ended.code, "line 2" in ended.err) == (2, True)
    assert (await ready("schedules", "ls", "-o", "json")).out.strip() == "[]"
    assert (await ready("schedules", "add", "--file", "-", stdin=orjson.dumps(good))).code == 0
    assert (
        await ready("submit", "-", "--not-before", "1h", stdin=orjson.dumps(orjson.loads(TASK) | {"id": "t"}))
    ).code == 0
    [task] = (await ready("tail", "tasks", "--from-beginning", "--max", "1")).lines()
    assert task["metadata"].keys() == {"notBefore"}
    assert (await ready("submit", "-", "--not-before", "later", stdin=b"{}")).code == 2
