"""Schemas are fetched once, records wait for them without harm to others, and only the registry's own word refuses one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.types import TP

from schemas.codec import Rejected, decode_json
from schemas.wire_format import SCHEMAS, SchemaCache
from streams import schema_registry
from streams.broker.kafka import client_options
from streams.cli import doctor
from streams.engine import follower as follower_module
from streams.engine.feed import Feed
from streams.engine.follower import Follower
from streams.schema_registry import (
    MISSING_TRIES,
    REFUSED_S,
    SchemaRegistry,
    SchemaUnavailable,
    forget_registry,
    use_registry,
)
from streams.settings import KafkaSettings, Settings, SettingsError
from streams.statistics.held_records import HeldRecords
from tests.support.consuming import FakeConsumer
from tests.support.memory import held as kept_by
from tests.support.partition_fakes import intake
from tests.support.schema_registry import FakeRegistry, Written
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time

URL = "https://registry.test/api"
SECRET = "the-secret"
STRING = {"schema": '"string"'}
MISSING = httpx.Response(404, json={"error_code": 40403})


def avro(text: str = "t1", schema_id: int = 7) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + bytes([2 * len(text)]) + text.encode()


class Rig:
    """A registry that answers as it is told to, the last answer again and again.

    `asked_at`: seconds; `at_once`: the most requests that it had to answer at the same time.
    """

    def __init__(self, *answers: httpx.Response | Exception, cache: SchemaCache | None = None) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.asked_at: list[float] = []
        self.answering = self.at_once = 0
        self.cache = SchemaCache() if cache is None else cache
        self.registry = SchemaRegistry(
            URL, ("me", SECRET), cache=self.cache, now=asyncio.get_running_loop().time,
            transport=httpx.MockTransport(self._answer),
        )  # fmt: skip

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        self.asked_at.append(asyncio.get_running_loop().time())
        self.answering += 1
        self.at_once = max(self.at_once, self.answering)
        await asyncio.sleep(0.001)
        self.answering -= 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found

    def read(self, value: bytes) -> Any:
        """The value by what is known of its schema."""
        read = self.cache.get(int.from_bytes(value[1:5], "big"))
        return None if read is None else read(value[5:])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    forget_registry()


async def test_a_schema_is_fetched_once_for_all_who_need_it() -> None:
    rig = Rig(httpx.Response(200, json=STRING))
    records = [Written(avro(text)) for text in ("a", "b", "c")]
    assert rig.registry.first_unknown([Written(b"{}"), Written(None), *records]) == 2
    await asyncio.gather(*(rig.registry.learn([record]) for record in records))
    assert rig.registry.first_unknown(records) is None
    assert [rig.read(record.value or b"") for record in records] == ["a", "b", "c"]
    [request] = rig.asked
    assert str(request.url) == f"{URL}/schemas/ids/7"
    assert request.headers["authorization"] == "Basic bWU6dGhlLXNlY3JldA=="
    assert kept_by(rig.registry, asyncio.Task) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.ConnectError("refused"), "refused"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (httpx.Response(503), "it answers 503"),
        (httpx.Response(401), "it refuses kafka.schema_registry_username and its password (401)"),
        (httpx.Response(302, headers={"location": "http://elsewhere"}), "it answers 302"),
        (httpx.Response(404, text="<html>"), "check kafka.schema_registry_url"),
        (httpx.Response(404, json={"error_code": 404}), "check kafka.schema_registry_url"),
        (httpx.Response(200, text="<html>"), "it answers 200 with no schema"),
        (httpx.Response(200, json={"schema": 1}), "it answers 200 with no schema"),
        (httpx.Response(200, content=b'{"schema": "' + b" " * 5_000_000 + b'"}'), "it answers 200 with no schema"),
    ],
)
async def test_a_registry_that_is_away_makes_no_dead_letter(answer: Any, reason: str) -> None:
    """It is asked again, at growing pauses, until it answers; until then one line says why records wait."""
    rig = Rig(*[answer] * 9, httpx.Response(200, json=STRING))
    with pytest.raises(SchemaUnavailable) as caught:
        await rig.registry.learn_now([Written(avro())])
    assert reason in str(caught.value)
    assert f"schema 7 cannot be fetched from {URL}" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    waiting = asyncio.create_task(rig.registry.learn([Written(avro())]))
    await until(lambda: rig.registry.problem)
    assert rig.registry.problem == str(caught.value)
    await waiting
    pauses = [after - before for before, after in pairwise(rig.asked_at)]
    assert pauses == pytest.approx([0, 0.5, 1, 2, 4, 8, 16, 30, 30], abs=0.01)
    assert rig.registry.problem is None
    assert rig.read(avro()) == "t1"


async def test_ids_that_were_made_up_push_no_schema_out_and_are_asked_for_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A producer of something else: what it writes begins with a zero byte too."""
    monkeypatch.setattr(schema_registry, "FETCHES", 10)
    rig = Rig(httpx.Response(200, json=STRING), cache=SchemaCache(20))
    await rig.registry.learn([Written(avro())])
    rig.answers = [MISSING]
    made_up = [Written(avro(schema_id=number)) for number in range(100, 130)]
    await rig.registry.learn(made_up)
    assert rig.at_once == 10
    assert rig.read(avro()) == "t1"
    assert rig.registry.first_unknown(made_up[-20:]) is None


async def test_what_the_registry_does_not_have_is_refused_for_a_while() -> None:
    """After a few tries, since its followers learn late; then it is asked again."""
    rig = Rig(MISSING)
    await rig.registry.learn([Written(avro())])
    assert len(rig.asked) == MISSING_TRIES
    with pytest.raises(ValueError, match=f"was written with schema 7, which {URL} does not have"):
        rig.read(avro())
    await rig.registry.learn([Written(avro())])
    assert len(rig.asked) == MISSING_TRIES
    rig.answers = [httpx.Response(200, json=STRING)]
    await asyncio.sleep(REFUSED_S)
    assert rig.registry.first_unknown([Written(avro())]) == 0
    await rig.registry.learn([Written(avro())])
    assert rig.read(avro()) == "t1"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"schema": "{"}, "is no Avro schema"),
        ({"schema": "x", "schemaType": "THRIFT"}, "schemas of type 'THRIFT' cannot be read"),
        ({"schema": '"int"', "references": [{"name": "x"}]}, "has a reference without name, subject or version"),
        ({"schema": '"int"', "references": [{"name": "x", "subject": "s", "version": 1}]}, "refers to itself"),
        (STRING, "does not fit its Avro schema"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_its_reason(body: dict[str, Any], reason: str) -> None:
    rig = Rig(httpx.Response(200, json=body))
    await rig.registry.learn([Written(avro())])
    with pytest.raises(ValueError, match=reason):
        rig.read(avro() + b"more")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (MISSING, None),
        (httpx.Response(200, json=STRING), None),
        (httpx.Response(401), "it refuses kafka.schema_registry_username"),
        (httpx.Response(404), "check kafka.schema_registry_url"),
        (httpx.ConnectError("refused"), "refused"),
    ],
)
async def test_doctor_says_whether_there_is_a_registry(
    answer: Any, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await doctor.check_schema_registry() == []
    in_use(monkeypatch, answer)
    [row] = await doctor.check_schema_registry()
    assert (row["check"], row["state"]) == ("schemas", "ok" if reason is None else "failed")
    assert (reason or f"{URL} answers") in row["detail"]


async def test_a_json_schema_says_that_the_rest_is_json() -> None:
    rig = Rig(httpx.Response(200, json={"schema": "{}", "schemaType": "JSON"}))
    value = b"\0\0\0\0\7[1]"
    await rig.registry.learn([Written(value)])
    assert rig.read(value) == [1]


def in_use(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response | Exception) -> Rig:
    """The registry of this process."""
    rig = Rig(answer, cache=SCHEMAS)
    monkeypatch.setattr(schema_registry, "SchemaRegistry", lambda *_: rig.registry)
    use_registry(KafkaSettings(schema_registry_url=URL))
    return rig


class Partition:
    """As much of a partition's processor as the feed uses; takes at once what arrives."""

    def __init__(self, number: int) -> None:
        self.tp = TopicPartition("t.tasks", number)
        self.partitions = {"tasks": self.tp}
        self.inboxes: dict[str, list[Any]] = {"tasks": []}
        self.ledgers = {"tasks": SimpleNamespace(next=0)}
        self.handler = SimpleNamespace(room=lambda source: True)
        self.behind: set[str] = set()
        self.ready, self.in_flight = True, 0
        self.seen: list[int] = []

    def arrived(self, source: str, records: list[ConsumerRecord]) -> None:
        """All can be decoded by now."""
        for record in records:
            decode_json(record.value, record.headers)
        self.seen += [record.offset for record in records]

    def passed(self, positions: dict[str, int]) -> None:
        """Markers."""


async def test_a_partition_waits_for_its_schema_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is lost, doubled or out of order; while it waits it is not fetched."""
    rig = in_use(monkeypatch, httpx.ConnectError("away"))
    consumer, partitions = FakeConsumer(), {number: Partition(number) for number in (0, 1)}
    consumer.listener = SimpleNamespace(on_partitions_assigned=lambda tps: asyncio.sleep(0))
    await consumer.assign(*(one.tp for one in partitions.values()))
    for one in partitions.values():
        consumer.write(one.tp, 10)
        consumer.seek(one.tp, 0)
    waits = partitions[1].tp
    consumer.values |= {(waits, offset): avro() for offset in (4, 7)} | {(waits, 5): b"\0\0\0\0\7{}"}
    feed = Feed(
        consumer=consumer,
        processors=partitions,
        names={"t.tasks": "tasks"},
        room=asyncio.Event(),
        failed=lambda error: None,
    )  # type: ignore[arg-type]
    for _ in range(5):
        await feed.turn()
        consumer.write(partitions[0].tp, 1)
    assert partitions[0].seen[:13] == list(range(13))
    assert partitions[1].seen == [0, 1, 2, 3]
    assert consumer.paused == {waits}
    assert waits not in feed.polled, "the watchdog counts it as no stall"
    assert "schema 7 cannot be fetched" in await until(lambda: rig.registry.problem)
    rig.answers = [httpx.Response(200, json=STRING)]
    await until(lambda: not consumer.paused)
    for _ in range(3):
        await feed.turn()
    assert partitions[1].seen == list(range(10))
    assert rig.registry.problem is None


async def test_a_feed_that_ends_waits_for_no_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use(monkeypatch, httpx.ConnectError("away"))
    consumer, one = FakeConsumer(), Partition(0)
    consumer.listener = SimpleNamespace(on_partitions_assigned=lambda tps: asyncio.sleep(0))
    await consumer.assign(one.tp)
    consumer.write(one.tp, 1)
    consumer.seek(one.tp, 0)
    consumer.values[one.tp, 0] = avro()
    feed = Feed(
        consumer=consumer,
        processors={0: one},
        names={"t.tasks": "tasks"},
        room=asyncio.Event(),
        failed=lambda error: None,
    )  # type: ignore[dict-item]
    before = asyncio.all_tasks()
    await feed.turn()
    [*learning] = asyncio.all_tasks() - before
    assert learning
    feed.close()
    await until(lambda: all(task.done() for task in learning))
    assert consumer.paused == {one.tp}


class FollowedConsumer(FakeConsumer):
    """Asked for all partitions at once, as followers do."""

    def __init__(self, *tps: TopicPartition) -> None:
        super().__init__()
        topics = {tp.topic for tp in tps}
        self.cluster = SimpleNamespace(topics=lambda: topics, partitions_for_topic=self.partitions_for_topic)
        self._client = SimpleNamespace(cluster=self.cluster, fetch_all_metadata=self._metadata)
        self._fetcher = SimpleNamespace(_fetch_task=None, _pending_tasks=())
        self._tps = tps

    async def _metadata(self) -> Any:
        return self.cluster

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Those that it was made with."""
        return {tp.partition for tp in self._tps if tp.topic == topic}

    def assign(self, tps: list[TopicPartition]) -> None:  # type: ignore[override]
        """As aiokafka's without a group."""
        self.assigned = set(tps)

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int = 500) -> Any:
        """Of what is assigned."""
        return await super().getmany(*(tps or sorted(self.assigned)), timeout_ms=timeout_ms, max_records=max_records)


async def test_a_follower_reads_what_it_cannot_decode_yet_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other partitions are applied, and its problem says why the rest waits."""
    rig = in_use(monkeypatch, httpx.ConnectError("away"))
    tps = [TopicPartition("t.agents", number) for number in (0, 1)]
    consumer, applied = FollowedConsumer(*tps), list[tuple[int, int, Any]]()
    for name in ("identities", "epoch_ends"):  # no broker says which log it is
        monkeypatch.setattr(follower_module, name, lambda *_: asyncio.sleep(0, {}))
    for tp in tps:
        consumer.write(tp, 3)
    consumer.values[tps[0], 1] = avro()

    def apply(record: ConsumerRecord) -> None:
        applied.append((record.partition, record.offset, decode_json(record.value, record.headers).data))

    follower = Follower({}, "t.agents", apply, make_consumer=lambda **_: consumer)
    starting = asyncio.create_task(follower.start())
    await asyncio.sleep(10)  # it tries again each second
    assert len(rig.asked) > 2
    assert [(number, offset) for number, offset, _ in applied] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert "schema 7 cannot be fetched" in (follower.problem or "")
    assert not starting.done()
    rig.answers = [httpx.Response(200, json=STRING)]
    await starting
    assert applied[4:] == [(0, 1, "t1"), (0, 2, {})]
    await follower.stop()


async def test_points_wait_for_their_schema_and_those_of_other_partitions_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = in_use(monkeypatch, httpx.ConnectError("away"))
    held, one, two, other = HeldRecords(), TP("points", 0), TP("points", 1), TP("changelog", 0)

    def fetched(records: dict[TP, list[Any]]) -> dict[TP, list[int]]:
        held.exchange(records, "points")
        return {tp: [record.offset for record in found] for tp, found in records.items()}

    begin = {one: [intake(0), intake(1, avro()), intake(2)], two: [intake(0)], other: [intake(0, avro())]}
    assert fetched(begin) == {one: [0], two: [0], other: [0]}
    assert held.without({one, two}) == {two}
    assert one in held
    assert fetched({one: [intake(3)]}) == {}, "prefetched before it was left out"
    rig.answers = [httpx.Response(200, json=STRING)]
    await until(lambda: rig.registry.first_unknown([Written(avro())]) is None)
    await settle()
    assert fetched({one: [intake(4)], two: [intake(1)]}) == {one: [1, 2, 3, 4], two: [1]}
    assert held.without({one, two}) == {one, two}
    SCHEMAS.clear()
    rig.answers = [httpx.ConnectError("away")]
    assert fetched({one: [intake(5, avro())]}) == {}
    held.clear()
    await settle()
    assert fetched({}) == {}
    assert one not in held


def test_a_real_server_is_asked_with_credentials() -> None:
    async def ask(server: FakeRegistry) -> None:
        server.authorization = "Basic bWU6dGhlLXNlY3JldA=="
        number = server.add({"type": "string"})
        cache = SchemaCache()
        with pytest.raises(SchemaUnavailable, match="schema_registry_username"):
            await SchemaRegistry(server.url, cache=cache).learn_now([Written(avro(schema_id=number))])
        await SchemaRegistry(server.url + "/", ("me", SECRET), cache=cache).learn_now([Written(avro(schema_id=number))])
        read = cache.get(number)
        assert read is not None
        assert read(b"\4t1") == "t1"

    with FakeRegistry() as server:
        asyncio.run(ask(server))


def settings(**kafka: Any) -> Settings:
    return Settings.model_validate({"kafka": kafka})


def test_settings_switch_it_on_for_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"schema_registry_url": URL, "schema_registry_username": "me", "schema_registry_password": SECRET}
    client_options(settings())
    assert schema_registry.registry() is None
    with pytest.raises(SettingsError, match=r"kafka\.schema_registry_username and kafka\.schema_registry_password"):
        client_options(settings(**whole | {"schema_registry_password": None}))
    client_options(settings(**whole))
    first = schema_registry.registry()
    client_options(settings(**whole))
    client_options(settings())
    assert schema_registry.registry() is first is not None
    assert SCHEMAS.registry == URL
    with pytest.raises(Rejected, match=f"schema 7, which was not fetched from {URL}"):
        decode_json(avro(), ())
    with pytest.raises(SettingsError, match="this process reads schemas from"):
        client_options(settings(schema_registry_url="http://other"))
    assert SECRET not in repr(settings(**whole))
    monkeypatch.setattr(schema_registry, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'parallax-streams\[registry\]'"):
        client_options(settings(**whole))


@pytest.mark.parametrize(
    "url", ["registry:8081", "https://me:pw@registry", "https://registry/?a=b", "https://reg istry"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="schema_registry_url"):
        settings(schema_registry_url=url)
