"""What changes something over HTTP: who may, what is refused before Kafka is asked, and what goes onto the topics."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord

from streams.live import actions, dead_letters
from streams.rules.broker.dead_letters import Replay
from streams.settings import Settings
from tests.unit.test_web_access import worker as guarded_worker

VIEW, OPERATE = "view-token-0123456789", "operate-token-0123456789"
JSON = {"Content-Type": "application/json"}
ACTIONS = (
    "/api/v1/tasks/t1/cancel",
    "/api/v1/tasks/t1/retry",
    "/api/v1/dead-letters/parallax.tasks/0/7/replay",
    "/api/v1/plans/p1/cancel",
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """What was written: topic, key, value."""
    monkeypatch.setenv("VIEW", VIEW)
    monkeypatch.setenv("OPERATE", OPERATE)
    records: list[tuple[str, Any, Any]] = []

    async def send_keyed(settings: Settings, name: str, given: list[tuple[Any, Any]]) -> int:
        records.extend((name, key, json.loads(value)) for key, value in given)
        return len(given)

    monkeypatch.setattr(actions, "send_keyed", send_keyed)
    return records


def worker(**auth: Any) -> AbstractAsyncContextManager[str]:
    """A worker's web side; its address."""
    return guarded_worker(**(auth or {"view_tokens": "env:VIEW", "operate_tokens": "env:OPERATE"}))


async def posted(url: str, token: str | None = OPERATE, body: str = "{}", **headers: str) -> tuple[int, Any]:
    sent = JSON | headers | ({} if token is None else {"Authorization": f"Bearer {token}"})
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=sent) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("path", ACTIONS)
async def test_only_the_holder_of_an_operate_token_may(path: str, sent: list[Any]) -> None:
    """401 without a token or with a wrong one, 403 with one that may view; nothing is written."""
    async with worker() as url:
        assert (await posted(url + path, None))[0] == 401
        assert (await posted(url + path, "wrong-token-0123456789"))[0] == 401
        status, body = await posted(url + path, VIEW)
        assert (status, body) == (403, {"error": "this needs the power operate; the token or the user has view"})
    assert sent == []


@pytest.mark.parametrize("path", ACTIONS)
async def test_what_a_foreign_page_can_send_is_refused(path: str, sent: list[Any]) -> None:
    """A form's content type, and a browser that says another site asks; where no token is asked for, too."""
    async with worker(view_tokens=()) as url:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            assert (await posted(url + path, None, **{"Content-Type": kind}))[0] == 415
        assert (await posted(url + path, None, **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
        assert (await posted(url + path, None, Origin="https://evil.example"))[0] == 403
    assert sent == []


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (ACTIONS[0], "{", 400, "the body is no JSON"),
        (ACTIONS[0], "[]", 400, "the body must be a JSON object"),
        (ACTIONS[0], '{"reason": 1}', 400, "reason: must be text"),
        (ACTIONS[0], json.dumps({"reason": "x" * 501}), 400, "reason: must be text"),
        ("/api/v1/tasks/" + "x" * 257 + "/cancel", "{}", 400, "must be 1 to 256 characters"),
        (ACTIONS[1], '{"since": "yesterday"}', 400, "since: "),
        (ACTIONS[1], '{"since": 5}', 400, "since: must be a duration or a time"),
        (ACTIONS[1], '{"id": ""}', 400, "id: must be 1 to 256 characters"),
        (ACTIONS[1], '{"id": "t1"}', 400, "id: must be another"),
        (ACTIONS[3], '{"reason": 1}', 400, "reason: must be text"),
        ("/api/v1/plans/" + "x" * 257 + "/cancel", "{}", 400, "the plan's id: must be 1 to 256 characters"),
        (
            "/api/v1/dead-letters/parallax.results/0/7/replay",
            "{}",
            404,
            "this installation has no dead letters of such a topic",
        ),
        ("/api/v1/dead-letters/parallax.tasks/0/7777777777777777777/replay", "{}", 404, "no such partition"),
    ],
)
async def test_bad_input_names_the_field(path: str, body: str, status: int, reason: str, sent: list[Any]) -> None:
    async with worker() as url:
        found, answer = await posted(url + path, body=body)
    assert (found, sent) == (status, [])
    assert reason in answer["error"]


async def test_a_cancel_is_a_control_with_its_reason(sent: list[Any]) -> None:
    async with worker() as url:
        assert await posted(url + ACTIONS[0], body='{"reason": "wrong input"}') == (
            202,
            {"taskId": "t1", "asked": True},
        )
        assert (await posted(url + "/api/v1/tasks/a%2Fb/cancel"))[0] == 202
        assert await posted(url + ACTIONS[3]) == (202, {"planId": "p1", "asked": True})
    first, second, plan = sent
    assert first == ("controls", b"t1", {"type": "cancel", "taskId": "t1", "reason": "wrong input"})
    assert (second[1], second[2]["taskId"]) == (b"a/b", "a/b")
    assert plan == ("controls", b"p1", {"type": "cancel", "planId": "p1", "reason": "cancelled over HTTP"})


async def test_a_retry_repeated_with_its_new_id_is_one_task(sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The task as it was, under the id given; the worker answers an id once."""

    async def find_task(settings: Settings, task_id: str, since: str) -> dict[str, Any]:
        return {"id": task_id, "type": "agent", "target": "a", "payload": 1, "metadata": {"mine": since}}

    monkeypatch.setattr(actions, "find_task", find_task)
    async with worker() as url:
        for _ in range(2):
            answer = await posted(url + ACTIONS[1], body='{"id": "t1-again", "since": "48h"}')
            assert answer == (201, {"taskId": "t1-again", "retryOf": "t1"})
    assert sent[0] == sent[1]
    topic, key, task = sent[0]
    assert (topic, key, task["id"]) == ("tasks", b"a", "t1-again")
    assert task["metadata"] == {"mine": "48h", "retryOf": "t1"}


async def test_a_task_whose_deadline_has_passed_is_not_retried(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_task(settings: Settings, task_id: str, since: str) -> dict[str, Any]:
        return {
            "id": task_id,
            "type": "agent",
            "target": "a",
            "payload": 1,
            "metadata": {"deadline": "2026-01-01T00:00:00Z"},
        }

    monkeypatch.setattr(actions, "find_task", find_task)
    async with worker() as url:
        status, answer = await posted(url + ACTIONS[1], body="{}")
    assert (status, sent) == (409, [])
    assert "metadata.deadline: 2026-01-01T00:00:00Z has passed" in answer["error"]


async def test_brokers_that_are_away_and_rights_that_are_missing(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with the reason, and 403 that names the rights."""
    failures: list[Exception] = [KafkaConnectionError("no broker"), TopicAuthorizationFailedError("parallax.controls")]

    async def send_keyed(*_: Any) -> int:
        raise failures.pop(0)

    monkeypatch.setattr(actions, "send_keyed", send_keyed)
    async with worker() as url:
        status, body = await posted(url + ACTIONS[0])
        assert (status, "no broker" in body["error"]) == (503, True)
        status, body = await posted(url + ACTIONS[0])
        assert status == 403
        assert "access to topic parallax.controls" in body["error"]
        assert "`operator`" in body["error"]


class _Replayer:
    """Keeps what is sent back."""

    def __init__(self) -> None:
        self.replays: list[Replay] = []

    async def send(self, place: Any, replay: Replay) -> None:
        self.replays.append(replay)

    async def settle(self) -> list[tuple[Any, Replay, None]]:
        return [(None, self.replays[-1], None)]


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> _Replayer:
    """One dead letter at dlq.parallax.tasks/0/3, as the headers in `origin` say."""
    replayer = _Replayer()

    async def look_up(settings: Settings, places: list[Any]) -> AsyncGenerator[tuple[Any, ConsumerRecord | None]]:
        for place in places:
            headers = (
                ("__dlq.errors.topic", place_origin[place.offset].encode()),
                ("__dlq.errors.message", b"id: missing"),
            )
            known = place.offset in place_origin
            value = b'{"secret":1}'
            record = ConsumerRecord(place.topic, 0, place.offset, 0, 0, b"k", value, None, 1, len(value), headers)
            yield place, record if known else None

    place_origin = {3: "parallax.tasks", 4: "parallax.results", 5: "elsewhere"}

    @asynccontextmanager
    async def replaying(settings: Settings) -> AsyncIterator[_Replayer]:
        yield replayer

    async def catalog(settings: Settings) -> dict[str, list[int]]:
        return {"parallax.tasks": [0], "parallax.results": [0], "elsewhere": [0]}

    monkeypatch.setattr(dead_letters, "look_up", look_up)
    monkeypatch.setattr(actions, "replaying", replaying)
    monkeypatch.setattr(actions, "catalog", catalog)
    return replayer


async def test_a_letter_goes_back_only_to_where_letters_come_from(sent: list[Any], letters: _Replayer) -> None:
    """Its headers are another's word: they may name a topic of results, or anybody's."""
    async with worker() as url:
        base = f"{url}/api/v1/dead-letters/dlq.parallax.tasks/0"
        status, body = await posted(f"{base}/3/replay")
        assert (status, body) == (200, {"place": "dlq.parallax.tasks/0/3", "to": "parallax.tasks", "count": 1})
        for offset in (4, 5):
            status, body = await posted(f"{base}/{offset}/replay")
            assert (status, "accepts no replayed dead letters" in body["error"]) == (409, True)
    assert [(one.topic, one.key, one.value) for one in letters.replays] == [("parallax.tasks", b"k", b'{"secret":1}')]


async def test_the_value_of_a_letter_is_shown_to_those_who_may_act_on_it(sent: list[Any], letters: _Replayer) -> None:
    async with worker() as url, aiohttp.ClientSession() as session:
        for token, value in ((VIEW, None), (OPERATE, {"secret": 1})):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(f"{url}/api/v1/dead-letters/dlq.parallax.tasks/0/3", headers=headers) as answer:
                shown = await answer.json()
            assert (answer.status, shown["reason"], shown.get("value")) == (200, "id: missing", value)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("max=0", "max: "),
        ("max=201", "max: "),
        ("max=x", "max: "),
        ("max=%D9%A1", "max: "),
        ("since=then", "since: "),
    ],
)
async def test_a_list_of_letters_is_bounded(query: str, reason: str, sent: list[Any]) -> None:
    async with worker() as url, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {VIEW}"}
        async with session.get(f"{url}/api/v1/dead-letters?{query}", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"].startswith(reason)) == (400, True)
        async with session.get(f"{url}/api/v1/dead-letters") as answer:
            assert answer.status == 401


async def test_the_newest_letters_of_all_topics_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many; topics of an installation whose prefix begins as ours are not read."""
    times = {"dlq.tasks": [1, 5, 3], "dlq.plans": [4, 2]}
    asked = []

    async def dlq_topics(settings: Settings) -> list[str]:
        return ["dlq.parallax.plans", "dlq.parallax.tasks", "dlq.parallax.b.tasks"]

    async def read_all(settings: Settings, topic: str, since_ms: int) -> AsyncGenerator[Any]:
        asked.append((topic, since_ms))
        for offset, at in enumerate(times[topic]):
            yield ConsumerRecord(f"x.{topic}", 0, offset, at, 0, None, b"v", None, 0, 1, ())

    monkeypatch.setattr(dead_letters, "dlq_topics", dlq_topics)
    monkeypatch.setattr(dead_letters, "read_all", read_all)
    found = await dead_letters.newest(Settings(), 7, 3)
    assert [(one.topic, one.timestamp) for one in found] == [
        ("x.dlq.tasks", 5),
        ("x.dlq.plans", 4),
        ("x.dlq.tasks", 3),
    ]
    assert asked == [("dlq.plans", 7), ("dlq.tasks", 7)]
