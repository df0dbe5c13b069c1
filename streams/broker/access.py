"""Checks which rights the brokers deny this user, before any work begins.

In: settings and the rights needed. Out: the missing ones, as one sentence with the remedy. Checking changes nothing:
transactional ids are tried with one that no partition uses. Brokers that cannot report rights (old ones, the embedded
one) are not asked.

aiokafka leaves topics it may not see out of its metadata and waits for them; therefore nothing starts without its
rights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32

from schemas.access import CHANGELOG, WORKER, Grant, Operation, grants
from schemas.topics import TOPICS, dead_letter_topics, full_name
from streams.broker.kafka import CLIENT_ID, NOT_YET, RETRY_PAUSE_S, BrokerUnreachable, client_options
from streams.broker.oauth import TOKEN_MECHANISMS
from streams.newer_requests import TEXT, NewerRequest, rows
from streams.settings import Settings

ASK_TIMEOUT_S = 20.0
NAMED = 4
"""Missing rights that are named; of further ones only the number."""
_BITS: Mapping[Operation, int] = {
    "Read": 3, "Write": 4, "Create": 5, "Alter": 7, "Describe": 8, "DescribeConfigs": 10,
}  # fmt: skip
_TELLING: tuple[Operation, ...] = ("Read", "Write", "Create")
_NOT_REPORTED = (-(2**31), 0)
"""The first value by the protocol; the second is sent by no broker that shows the topic at all."""
_HIDDEN = kafka_errors.TopicAuthorizationFailedError.errno
_UNKNOWN = kafka_errors.UnknownTopicOrPartitionError.errno
_GROUP_DENIED = kafka_errors.GroupAuthorizationFailedError.errno


class AccessDenied(Exception):
    """The brokers deny this user a right it needs. The message is one line: the right, and the remedy."""


def worker_needs(settings: Settings) -> list[Grant]:
    """The rights that a worker with these settings needs, as far as they are known before agents are registered."""
    roles = [role for role in WORKER if role in settings.roles]
    return grants(roles, settings.topic_prefix, settings.app_id)


def refusal(settings: Settings, missing: Iterable[Grant | str]) -> AccessDenied:
    """The sentence for the missing rights: the user, the rights, and how to list all that are needed."""
    shown = [str(one) for one in missing]
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return AccessDenied(
        f"Kafka at {settings.bootstrap_servers} refuses {user(settings)} {', '.join(shown[:NAMED])}{more}; "
        "what is needed is printed by: parallax docs acls"
    )


def user(settings: Settings) -> str:
    """The Kafka user, as far as the settings name it."""
    if settings.kafka.security_protocol.startswith("SASL"):
        mechanism = settings.kafka.sasl_mechanism
        if mechanism in TOKEN_MECHANISMS:
            return f"the user that the token names (kafka.sasl_mechanism {mechanism})"
        return f"user {settings.kafka.sasl_username} (kafka.sasl_username)"
    return "the holder of kafka.ssl_certfile" if settings.kafka.ssl_certfile else "anonymous users"


async def require(settings: Settings, needed: Iterable[Grant]) -> None:
    """Raises `AccessDenied` unless this user has these rights; `BrokerUnreachable` if no broker answers in time.

    Plain-text connections are not checked: such brokers rarely have ACLs.
    """
    if settings.kafka.security_protocol != "PLAINTEXT":
        missing = await lacking(settings, needed)
        if missing:
            raise refusal(settings, missing)


async def lacking(settings: Settings, needed: Iterable[Grant]) -> list[Grant]:
    """The rights that the brokers deny. Transactional ids are not checked here, see `kafka.supports_transactions`."""
    needed = list(needed)
    client = AIOKafkaClient(client_id=CLIENT_ID, **client_options(settings))
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await client.bootstrap()
            missing = await _topics(client, settings, [grant for grant in needed if grant.resource == "topic"])
            for grant in needed:
                if grant.resource == "group" and not grant.prefixed and not await _group(client, grant):
                    missing.append(grant)
        return missing
    except (kafka_errors.IncompatibleBrokerVersion, NotImplementedError):  # the second: aiokafka of older versions
        return []  # the brokers cannot report rights; a missing one shows when it is used
    except (kafka_errors.KafkaError, TimeoutError) as error:
        raise BrokerUnreachable(
            f"Kafka at {settings.bootstrap_servers} does not report the rights of {user(settings)}: {error!r}"
        ) from None
    finally:
        await client.close()


async def _topics(client: AIOKafkaClient, settings: Settings, needed: list[Grant]) -> list[Grant]:
    """Missing rights on topics, in the order of the table of topics; other topics come last."""
    short = [topic.name for topic in TOPICS]
    names = [full_name(name, settings.topic_prefix) for name in (*short, *dead_letter_topics(), CHANGELOG)]
    names = [name for name in names if any(grant.covers("topic", name) for grant in needed)]
    names += sorted({grant.name for grant in needed if not grant.prefixed} - set(names))
    answer = await client.send(client.get_random_node(), _TopicRights(names))
    missing: set[Grant] = set()
    for code, name, _, _, bits in answer.topics:
        for grant in needed:
            if not grant.covers("topic", name) or (grant.operation == "Create" and code != _UNKNOWN):
                continue  # an existing topic need not be created
            if code == _HIDDEN or (bits not in _NOT_REPORTED and not bits >> _BITS[grant.operation] & 1):
                missing.add(Grant("topic", name, grant.operation))
    # For a hidden topic, the missing right to read or write is the useful one.
    return sorted(missing, key=lambda grant: (grant.operation not in _TELLING, names.index(grant.name), grant))


async def _group(client: AIOKafkaClient, grant: Grant) -> bool:
    """Missing rights on a group. Waits for a coordinator that is not ready yet; the caller bounds the time."""
    while True:
        try:
            node = await client.coordinator_lookup(CoordinationType.GROUP, grant.name)
            answer = await client.send(node, _GroupRights(grant.name), group=ConnectionGroup.COORDINATION)
            code, *_, bits = answer.groups[0]
            if code == _GROUP_DENIED:
                return False
            if code == 0:
                return bits in _NOT_REPORTED or bool(bits >> _BITS[grant.operation] & 1)
            raise kafka_errors.for_code(code)()
        except kafka_errors.GroupAuthorizationFailedError:
            return False
        except NOT_YET:
            await client.force_metadata_update()
        await asyncio.sleep(RETRY_PAUSE_S)


class _TopicRights(
    NewerRequest,
    key=3,
    version=8,
    asked=[("topics", Array(TEXT)), ("create", Boolean), ("of_cluster", Boolean), ("of_topics", Boolean)],
    answered=[
        ("throttle_time_ms", Int32),
        rows("brokers", ("node", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT)),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        rows(
            "topics",
            ("error_code", Int16),
            ("topic", TEXT),
            ("is_internal", Boolean),
            rows(
                "partitions",
                ("error_code", Int16),
                ("partition", Int32),
                ("leader", Int32),
                ("leader_epoch", Int32),
                ("replicas", Array(Int32)),
                ("isr", Array(Int32)),
                ("offline", Array(Int32)),
            ),
            ("operations", Int32),
        ),
        ("cluster_operations", Int32),
    ],
):
    """A metadata request for these topics with the rights on each; creates none."""

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, struct: Any) -> Any:
        return struct(self._topics, False, False, True)


class _GroupRights(
    NewerRequest,
    key=15,
    version=3,
    asked=[("groups", Array(TEXT)), ("include_authorized_operations", Boolean)],
    answered=[
        ("throttle_time_ms", Int32),
        rows(
            "groups",
            ("error_code", Int16),
            ("group", TEXT),
            ("state", TEXT),
            ("protocol_type", TEXT),
            ("protocol", TEXT),
            rows(
                "members",
                ("member_id", TEXT),
                ("client_id", TEXT),
                ("client_host", TEXT),
                ("member_metadata", Bytes),
                ("member_assignment", Bytes),
            ),
            ("operations", Int32),
        ),
    ],
):
    """aiokafka reads responses of this version without their last field."""

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: Any) -> Any:
        return struct([self._group], True)
