"""How a client reaches Kafka: settings, checks before the first send, and whether a worker runs.

In: the user's arguments. Out: `Settings`, partition counts, and `ClientError`s that name what is missing and the
remedy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import ConsumerRecord

from schemas.access import role_group
from schemas.topics import full_name
from streams.broker.access import AccessDenied
from streams.broker.client import TopicMissing, require_topics
from streams.broker.kafka import BrokerUnreachable, client_options, reach, start
from streams.broker.topic_feed import TopicFeed
from streams.client.errors import ClientError, KafkaUnreachable, TopicsMissing
from streams.schema_registry import SchemaUnavailable
from streams.settings import KafkaSettings, Settings, SettingsError, load

ASK_TIMEOUT_S = 5.0
_ENVIRONMENT = frozenset(("PARALLAX_BOOTSTRAP_SERVERS", "PARALLAX_TOPIC_PREFIX", "PARALLAX_APP_ID"))
_SECTIONS = ("PARALLAX_KAFKA__", "PARALLAX_WEB_AUTH__")


def settings_for(
    bootstrap_servers: str | None, topic_prefix: str | None, app_id: str | None, kafka: Mapping[str, Any]
) -> Settings:
    """Argument > environment `PARALLAX_*` > `parallax.toml` > default, as for commands. Raises `ClientError`."""
    unknown = sorted(set(kafka) - set(KafkaSettings.model_fields))
    if unknown:
        raise TypeError(f"Client() has no option {unknown[0]!r}; Kafka's are {', '.join(KafkaSettings.model_fields)}")
    flags = {"bootstrap_servers": bootstrap_servers, "topic_prefix": topic_prefix, "app_id": app_id}
    flags |= {f"kafka.{name}": value for name, value in kafka.items()}
    # Other PARALLAX_* variables are for workers or other programs.
    environ = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT or name.startswith(_SECTIONS)}
    try:
        return load(flags, environ)
    except SettingsError as error:
        raise ClientError(_by_argument(str(error), flags)) from None


def usable(settings: Settings) -> Settings:
    """The settings, once the users and certificate files they name are checked. Raises `ClientError`."""
    try:
        client_options(settings)
    except SettingsError as error:
        raise ClientError(str(error)) from None
    return settings


def _by_argument(message: str, flags: Iterable[str]) -> str:
    """The message with names of arguments in place of command-line flags."""
    for path in flags:
        message = message.replace(f"--{path.replace('_', '-')}:", f"{path.removeprefix('kafka.')}:")
    return message


async def connect(settings: Settings, timeout_s: float) -> None:
    """Return when Kafka answers. Raises `KafkaUnreachable`."""
    try:
        await reach(settings, timeout_s)
    except BrokerUnreachable as error:
        raise KafkaUnreachable(
            f"{error}; start one (parallax dev, docker compose up) or give its address: Client('host:9092')"
        ) from None
    except SettingsError as error:
        raise ClientError(str(error)) from None


async def partitions_of(settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """Short topic name to its number of partitions. Raises `TopicsMissing`, `KafkaUnreachable`."""
    async with kafka_errors(settings):
        found = await require_topics(settings, *names)
    return {name: len(numbers) for name, numbers in found.items()}


@asynccontextmanager
async def kafka_errors(settings: Settings) -> AsyncIterator[None]:
    """Turns Kafka's errors within the block into `ClientError`s."""
    try:
        yield
    except TopicMissing as error:
        raise TopicsMissing(str(error)) from None
    except (AccessDenied, BrokerUnreachable) as error:
        raise KafkaUnreachable(str(error)) from None
    except (KafkaError, OSError, TimeoutError) as error:
        if isinstance(error, ClientError):
            raise
        reason = str(error) or type(error).__name__
        raise KafkaUnreachable(f"Kafka at {settings.bootstrap_servers}: {reason}") from error


async def records_since(
    settings: Settings, topic: str, since_ms: int, only: Collection[int] | None = None
) -> AsyncGenerator[ConsumerRecord]:
    """The records of a topic from a time to its present end. Raises `ClientError`, also if one cannot be decoded for now."""
    async with kafka_errors(settings), TopicFeed(settings, topic, since_ms=since_ms, only=only) as feed:
        async for record in feed.to_end():
            if feed.schema_problem is not None:
                raise SchemaUnavailable(feed.schema_problem)
            yield record


async def supports_idempotence(settings: Settings) -> bool:
    """Whether the broker gives producer ids to this user; the embedded one does not."""
    client = AIOKafkaClient(**client_options(settings))
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await client.bootstrap()
            answer = await client.send(client.get_random_node(), InitProducerIdRequest(None, 60_000))
        return bool(answer.error_code == 0)
    except (KafkaError, OSError, TimeoutError, NotImplementedError):
        return False
    finally:
        await client.close()


async def workers_present(settings: Settings) -> bool | None:
    """Whether any worker reads our `tasks`, under any `app_id`; None if the brokers give no answer."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    topic = full_name("tasks", settings.topic_prefix).encode()
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await start(admin)
            suffix = role_group("", "dispatch")
            groups = [group[0] for group in await admin.list_consumer_groups() if group[0].endswith(suffix)]
            # One group a request: aiokafka reads an answer about several as one of an older version, without a field at the end.
            described = [answer for group in groups for answer in await admin.describe_consumer_groups([group])]
        # A group: error, name, state, protocol type, protocol, members. A member: id, client's id, host, what it subscribed
        # to, what it was given; both hold the topics' names.
        members = [member for answer in described for group in answer.groups for member in group[5]]
        topics = [bytes(member[3] or b"") + bytes(member[4] or b"") for member in members]
        if any(topic in names for names in topics):
            return True
        # While a group is rebalanced its members have no topics yet; the embedded broker never tells them.
        return None if any(not names for names in topics) else False
    except Exception:
        # If the broker lacks or refuses the request it is unknown; only an error's text depends on it.
        return None
    finally:
        await admin.close()
