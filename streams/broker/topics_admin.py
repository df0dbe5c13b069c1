"""Creates and checks the topics of `schemas/topics.py`, dead letters included, on any broker.

In: settings and the user's options. Out: what was created, grown or left, per topic; or what exists and how it differs.
Never shrinks, never deletes, never changes the settings of an existing topic: an operator may have tuned them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.metadata import MetadataRequest

from schemas.access import Grant
from schemas.topics import TOPICS, dead_letter_topics, full_name
from streams.broker.access import require
from streams.broker.kafka import CLIENT_ID, BrokerUnreachable, client_options, reach
from streams.broker.topic_bounds import Fitting, NewShape, Refusal, new_topic
from streams.rules.broker.growth import growth_rank
from streams.rules.broker.topic_plan import TopicChange, WantedTopic, differences, plan, wanted
from streams.settings import Settings

REACH_TIMEOUT_S = 10.0
VISIBLE_TIMEOUT_S = 30.0
APPLY_ROUNDS = 5
_BAD_REPLICATION = kafka_errors.InvalidReplicationFactorError


class TopicsError(Exception):
    """The broker refused to create or grow a topic. The message is one line: the topic and the reason."""


class MissingTopics(Exception):
    """Topics are missing, or those of `ALIGNED` do not have equal partition counts. The message names the remedy."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """What `describe` found. `partitions` and `replication` are None if the topic is missing.

    `differences`: setting -> (value in the table of topics, value on the broker; None = not reported).
    """

    name: str
    partitions: int | None
    replication: int | None
    differences: Mapping[str, tuple[str, str | None]]

    @property
    def missing(self) -> bool:
        """Whether the topic is missing on the broker."""
        return self.partitions is None


async def apply(
    settings: Settings,
    partitions: int | None = None,
    replication_factor: int | None = None,
    *,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    left_out: Collection[str] = (),
) -> list[TopicChange]:
    """Create missing topics and return what was done for each, in the table's order. Safe to run twice, or twice at
    once.

    `partitions`: at least so many for tasks and the aligned topics; None = as many as `tasks` has, or
    `DEFAULT_PARTITIONS`. `replication_factor`: for new topics; None = the broker's default. `overrides`: full topic
    name -> settings of new topics; `left_out`: settings left to the broker. Settings that the cluster refuses are
    adapted; if that fails, no topic is created.

    Raises `TopicsError`, `BrokerUnreachable`, `SettingsError`.
    """
    topics = wanted(settings.topic_prefix)
    done: dict[str, TopicChange] = {}
    async with admin_client(settings) as admin:
        for _ in range(APPLY_ROUNDS):
            existing = {name: len(parts) for name, parts in (await partitions_now(admin)).items()}
            changes = plan(topics, existing, partitions)
            work = [change for change in changes if change.action != "unchanged"]
            if not work:
                return [done.get(change.name, change) for change in changes]
            shapes = _shapes([c for c in work if c.action == "created"], topics, overrides or {}, left_out)
            for change in await _create(admin, shapes, replication_factor):
                done[change.name] = change
            for change in await add_partitions(admin, [c for c in work if c.action == "grown"]):
                done[change.name] = change
            await wait_visible(admin, work)
    raise TopicsError("the broker's topics kept changing while they were created; try again")


def _shapes(
    changes: list[TopicChange],
    topics: list[WantedTopic],
    overrides: Mapping[str, Mapping[str, str]],
    left_out: Collection[str],
) -> list[NewShape]:
    configs = {topic.name: topic.config for topic in topics}
    shapes = []
    for change in changes:
        chosen = overrides.get(change.name, {})
        config = {name: value for name, value in configs[change.name].items() if name not in left_out} | dict(chosen)
        shapes.append(NewShape(change.name, change.partitions, config, frozenset(chosen)))
    return shapes


async def ensure(settings: Settings, name: str, partitions: int, config: Mapping[str, str]) -> None:
    """Create one topic that is not in the table, if it is missing; `name`: on the broker. Raises as `apply`."""
    change = TopicChange(name, "created", partitions)
    async with admin_client(settings) as admin:
        if name not in await partitions_now(admin):
            await _create(admin, [NewShape(name, partitions, dict(config))], None)
            await wait_visible(admin, [change])


async def describe(settings: Settings) -> list[TopicState]:
    """The state of each topic, in the table's order. Raises `TopicsError`, `BrokerUnreachable`, `SettingsError`."""
    topics = wanted(settings.topic_prefix)
    async with admin_client(settings) as admin:
        existing = await partitions_now(admin)
        configs = await _configs(admin, [topic.name for topic in topics if topic.name in existing])
    # Brokers hide what may not be seen.
    await require(settings, [Grant("topic", topic.name, "Describe") for topic in topics if topic.name not in existing])
    states = []
    for topic in topics:
        parts = existing.get(topic.name)
        if parts is None:
            states.append(TopicState(topic.name, None, None, {}))
            continue
        replication = min((len(part["replicas"]) for part in parts), default=0)
        found = differences(topic.config, configs.get(topic.name, {}))
        states.append(TopicState(topic.name, len(parts), replication, found))
    return states


async def size_limits(settings: Settings) -> dict[str, int]:
    """Topic (short name) to the largest batch in bytes, for every existing topic. Raises `TopicsError`,
    `KafkaError`.
    """
    names = [topic.name for topic in TOPICS] + list(dead_letter_topics())
    limits = {}
    for name, config in (await topic_configs(settings, names)).items():
        text = config.get("max.message.bytes") or ""
        if text.isdecimal():
            limits[name] = int(text)
    return limits


async def topic_configs(settings: Settings, names: Collection[str]) -> dict[str, Mapping[str, str]]:
    """The settings of those of these topics (short names) that exist. Raises `TopicsError`, `KafkaError`."""
    full = {full_name(name, settings.topic_prefix): name for name in names}
    async with admin_client(settings) as admin:
        existing = await partitions_now(admin)
        configs = await _configs(admin, [name for name in full if name in existing])
    return {full[name]: config for name, config in configs.items() if name in full}


async def check(settings: Settings, equal: bool = False) -> int:
    """The partition count of the aligned topics. Raises `MissingTopics`, `BrokerUnreachable`, `SettingsError`.

    While partitions are added, some topics may already have a multiple of it: workers use the partitions that all have.
    `equal`: none may.
    """
    topics = wanted(settings.topic_prefix)
    async with admin_client(settings) as admin:
        existing = {name: len(parts) for name, parts in (await partitions_now(admin)).items()}
    missing = [topic.name for topic in topics if topic.name not in existing]
    if missing:
        raise MissingTopics(f"missing topics: {', '.join(missing)}; create them with: parallax topics apply")
    counts = {topic.name: existing[topic.name] for topic in topics if topic.aligned}
    least = min(counts.values())
    if any(count % least or (equal and count > least) for count in counts.values()):
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise MissingTopics(
            f"partition counts must be equal, but {listed}; tasks in the extra partitions wait; fix it "
            "with: parallax topics apply"
        )
    return least


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client within the block, in which aiokafka's errors become ours."""
    await reach(settings, REACH_TIMEOUT_S)
    admin = AIOKafkaAdminClient(client_id=CLIENT_ID, **client_options(settings))
    try:
        await admin.start()
        yield admin
    except (
        kafka_errors.KafkaConnectionError,
        kafka_errors.NodeNotReadyError,
        kafka_errors.RequestTimedOutError,
        TimeoutError,
    ) as error:
        raise BrokerUnreachable(f"Kafka at {settings.bootstrap_servers} stopped answering: {error!r}") from None
    except kafka_errors.KafkaError as error:
        raise TopicsError(f"Kafka at {settings.bootstrap_servers} refused: {error}") from None
    finally:
        await admin.close()


async def partitions_now(admin: AIOKafkaAdminClient, node: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Topic -> its partitions, as one broker (None: any) knows them. Asks for all topics: asking for one by name makes
    the embedded broker create it.
    """
    # The public describe_topics asks a broker of its own choice; which one was asked matters in wait_visible.
    answer = await admin._send_request(MetadataRequest(None), node)
    return {topic["topic"]: topic["partitions"] for topic in answer.to_object()["topics"] if topic["error_code"] == 0}


async def _create(
    admin: AIOKafkaAdminClient, shapes: list[NewShape], replication_factor: int | None
) -> list[TopicChange]:
    """Create what is missing, all or nothing; return what was created here. A topic that another process just created
    is no error.
    """
    if not shapes:
        return []
    refusals = await Fitting(admin, replication_factor).fit(shapes)
    if refusals:
        raise TopicsError(_refused(refusals, len(shapes)))
    # The embedded broker creates what it is asked to check.
    made = {shape.name for shape in shapes} & (await partitions_now(admin)).keys()
    missing = [shape for shape in shapes if shape.name not in made]
    return [_created(shape) for shape in shapes if shape.name in made] + await _send(admin, missing, replication_factor)


async def _send(
    admin: AIOKafkaAdminClient, shapes: list[NewShape], replication_factor: int | None
) -> list[TopicChange]:
    if not shapes:
        return []
    response = await admin.create_topics(
        [new_topic(s.name, s.partitions, s.config, replication_factor) for s in shapes]
    )
    refused = {row[0]: (kafka_errors.for_code(row[1]), row[2]) for row in response.topic_errors if row[1] != 0}
    created = [_created(shape) for shape in shapes if shape.name not in refused]
    too_new = [s for s in shapes if s.name in refused and refused[s.name][0] is _BAD_REPLICATION]
    if too_new and replication_factor is None:
        # A broker from before "-1 = your default".
        return created + await _send(admin, too_new, 1)
    for name, (error, message) in refused.items():
        if error is not kafka_errors.TopicAlreadyExistsError and not error.retriable:
            raise TopicsError(f"cannot create {name}: {message or error.description}{_remedy(error)}")
    return created


def _created(shape: NewShape) -> TopicChange:
    return TopicChange(shape.name, "created", shape.partitions, adapted=shape.adapted)


def _refused(refusals: list[Refusal], count: int) -> str:
    """One line for all refusals; one refusal of access stands for the others."""
    first = refusals[0]
    if len(refusals) == 1 or _remedy(first.error):
        return f"cannot create {first.name}: {first.message}{_remedy(first.error)}"
    listed = "; ".join(f"{refusal.name}: {refusal.message}" for refusal in refusals)
    return (
        f"the cluster refuses {len(refusals)} of {count} topics, and none was created: {listed}; "
        "choose a value with --set topic.config=value, or leave one to the cluster with --leave-out config"
    )


def _remedy(error: type[BaseException]) -> str:
    denied = (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError)
    return "; what is needed is printed by: parallax docs acls admin" if issubclass(error, denied) else ""


async def add_partitions(admin: AIOKafkaAdminClient, changes: list[TopicChange]) -> list[TopicChange]:
    """Add partitions, in an order in which no topic is written to before its partition exists; return what was grown
    here.
    """
    grown = []
    for change in sorted(changes, key=lambda change: growth_rank(change.name)):
        try:
            await admin.create_partitions({change.name: NewPartitions(change.partitions)})
        except kafka_errors.IncompatibleBrokerVersion:
            raise TopicsError(
                f"{change.name} has {change.was} partitions and needs {change.partitions}, but this broker cannot add any"
            ) from None
        except kafka_errors.InvalidPartitionsError:
            continue  # another process was quicker; the next round looks again
        except kafka_errors.KafkaError as error:
            raise TopicsError(
                f"cannot grow {change.name} to {change.partitions} partitions: {error}{_remedy(type(error))}"
            ) from None
        grown.append(change)
    return grown


async def wait_visible(admin: AIOKafkaAdminClient, changes: list[TopicChange]) -> None:
    """Wait until every broker shows the topics with leaders (brokers learn of them one after the other). A worker that
    starts next then finds them at any broker.
    """
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    late = [change.name for change in changes]
    while time.monotonic() < deadline:
        views = await _views(admin)
        late = [c.name for c in changes if not all(_usable(view.get(c.name, []), c) for view in views)]
        if not late and views:
            return
        await asyncio.sleep(0.1)
    raise TopicsError(f"created, but not ready within {VISIBLE_TIMEOUT_S:g} s: {', '.join(late)}")


async def _views(admin: AIOKafkaAdminClient) -> list[dict[str, list[dict[str, Any]]]]:
    """The topics as each broker that answers knows them."""
    views = []
    for broker in (await admin.describe_cluster())["brokers"]:
        try:
            views.append(await partitions_now(admin, broker["node_id"]))
        except kafka_errors.KafkaError as error:
            if not error.retriable:
                raise
    return views


def _usable(partitions: list[dict[str, Any]], change: TopicChange) -> bool:
    # Of a topic to be created the count is not asked: it may have been created with another one meanwhile.
    least = change.partitions if change.action == "grown" else 1
    return len(partitions) >= least and all(partition["leader"] >= 0 for partition in partitions)


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Topic -> its settings. Asks for all settings: the embedded broker hangs up on a list of names."""
    if not names:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    found: dict[str, dict[str, str]] = {}
    for answer in answers:
        for resource in answer.resources:
            if resource[0] != 0:
                error = kafka_errors.for_code(resource[0])
                raise TopicsError(
                    f"cannot read the settings of {resource[3]}: {resource[1] or error.description}{_remedy(error)}"
                )
            found[resource[3]] = {entry[0]: entry[1] for entry in resource[4]}
    return found
