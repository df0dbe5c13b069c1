"""The Kafka rights each kind of user needs, derived from THE table of topics.

In: kinds of users (a worker's roles, or users of the topics), prefix and app id. Out: `Grant`s, also as commands for
`kafka-acls.sh` or as a Strimzi `KafkaUser`. It asks no broker. A test on a secured broker checks that these rights
suffice, and that each of them is needed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.topics import DEFAULT_PREFIX, TOPICS, Party, full_name

Resource = Literal["topic", "group", "transactional-id"]
Operation = Literal["Read", "Write", "Create", "Alter", "Describe", "DescribeConfigs"]
Who = Literal["dispatch", "plans", "schedules", "stats", "producer", "consumer", "operator", "admin", "agent"]
WORKER: tuple[Who, ...] = ("dispatch", "plans", "schedules", "stats")
"""The roles of a worker; the others use the topics from outside."""
EVERYBODY: dict[Who, str] = {
    "dispatch": "a worker with the role dispatch",
    "plans": "a worker with the role plans",
    "schedules": "a worker with the role schedules",
    "stats": "a worker with the role stats",
    "producer": "who submits tasks and plans, waits for their results, cancels, sends data points",
    "consumer": "who reads results, aggregates, anomalies, events",
    "operator": "who works with the commands of parallax: agents, dlq, task, plan, tail, feedback and those of a producer",
    "admin": "who runs parallax topics apply and grow",
    "agent": "an agent that reads a Kafka topic and answers on another",
}
CHANGELOG = "stats-changelog"
"""The state of statistics; the worker creates this topic itself, with as many partitions as `data-points`."""
_ORDER: tuple[Resource, ...] = ("topic", "group", "transactional-id")
_MADE_HERE: tuple[Operation, ...] = ("Read", "Write", "Create")
_ADMIN: tuple[Operation, ...] = ("Create", "Alter", "DescribeConfigs")
_ROLES: dict[Party, tuple[Who, ...]] = {
    Party.USERS: (),
    Party.DISPATCH: ("dispatch",),
    Party.PLANS: ("plans",),
    Party.SCHEDULES: ("schedules",),
    Party.STATS: ("stats",),
    Party.REGISTRY: ("dispatch",),
    Party.EVERY_WORKER: ("dispatch",),
    Party.LIVE_PAGE: WORKER,
    Party.EVERY_ROLE: WORKER,
}
"""The roles that act as each party of the table; topics about agents are read by workers that dispatch."""
_READ_TOO: dict[str, tuple[Who, ...]] = {"controls": ("plans", "schedules"), "results": WORKER, "agents": ("stats",)}
"""The coordinator and schedules obey cancels; each worker's page finds a task's result; statistics run registered
detectors.
"""


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One right. `prefixed`: it holds for every resource whose name begins with `name`."""

    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False

    def covers(self, resource: Resource, name: str) -> bool:
        """Whether the right is for this resource."""
        return self.resource == resource and (name.startswith(self.name) if self.prefixed else name == self.name)

    def __str__(self) -> str:
        """The right in words.

        >>> str(Grant("group", "shop-", "Read", prefixed=True))
        'Read on groups that begin with shop-'
        """
        what = self.resource.replace("-", " ")
        return f"{self.operation} on {what}{'s that begin with' if self.prefixed else ''} {self.name}"


def installation(app_id: str, prefix: str = DEFAULT_PREFIX) -> str:
    """The name of one installation on a cluster: its app id, and its topic prefix unless that is the default or the app id.

    >>> installation("shop"), installation("shop", "shop."), installation("shop", "test.")
    ('shop', 'shop', 'shop.test')
    """
    name = prefix.rstrip(".")
    return app_id if prefix == DEFAULT_PREFIX or name == app_id else f"{app_id}.{name}"


def role_group(app_id: str, role: Who, prefix: str = DEFAULT_PREFIX) -> str:
    """The consumer group of a worker's role; its transactional ids begin with it and a dash.

    >>> role_group("shop", "plans"), role_group("shop", "plans", "test.")
    ('shop-plans', 'shop.test-plans')
    """
    return f"{installation(app_id, prefix)}-{role}"


def reply_topic(app_id: str, prefix: str = DEFAULT_PREFIX) -> str:
    """The topic on which agents on Kafka answer the workers of an app."""
    return full_name(f"replies.{app_id}", prefix)


def grants(
    who: Iterable[Who],
    prefix: str = DEFAULT_PREFIX,
    app_id: str = "parallax-streams",
    *,
    agent_topics: Sequence[str] = (),
    group: str | None = None,
) -> list[Grant]:
    """The rights that these users need together, topics first. `agent_topics`: full names of the topics that agents on
    Kafka read. `group`: prefix of the consumer groups of consumers and agents; None: they join none (commands of
    parallax never do).

    >>> [str(grant) for grant in grants(["agent"], "p.", "shop", agent_topics=["in"], group="me")]
    ['Read on topic in', 'Write on topic p.replies.shop', 'Read on groups that begin with me']
    """
    found: set[Grant] = set()
    for one in who:
        if one in WORKER:
            found |= set(_worker(one, prefix, app_id, agent_topics))
        elif one == "agent":
            found.add(Grant("topic", reply_topic(app_id, prefix), "Write"))
            found |= {Grant("topic", topic, "Read") for topic in agent_topics}
        else:
            found |= set(_outside(one, prefix))
        if one in ("consumer", "agent") and group is not None:
            found.add(Grant("group", group, "Read", prefixed=True))
    return sorted(found, key=lambda grant: (_ORDER.index(grant.resource), grant))


def _worker(role: Who, prefix: str, app_id: str, agent_topics: Sequence[str]) -> Iterator[Grant]:
    for topic in TOPICS:
        name = full_name(topic.name, prefix)
        if role in _roles(topic.read_by) or role in _READ_TOO.get(topic.name, ()):
            yield Grant("topic", name, "Read")
        if role in _roles(topic.written_by):
            yield Grant("topic", name, "Write")
        if topic.dead_letters and role in _roles(topic.read_by):
            yield Grant("topic", full_name(f"dlq.{topic.name}", prefix), "Write")
    # It checks which topics exist, how large their records may be, and how long they are kept.
    for begin in (prefix, f"dlq.{prefix}"):
        yield Grant("topic", begin, "Describe", prefixed=True)
        if role != "stats":
            yield Grant("topic", begin, "DescribeConfigs", prefixed=True)
    group = role_group(app_id, role, prefix)
    yield Grant("group", group, "Read")
    yield Grant("transactional-id", f"{group}-", "Write", prefixed=True)
    if role == "stats":
        yield from (Grant("topic", full_name(CHANGELOG, prefix), op) for op in _MADE_HERE)
    if role == "dispatch" and agent_topics:
        yield from (Grant("topic", reply_topic(app_id, prefix), op) for op in _MADE_HERE if op != "Write")
        yield from (Grant("topic", name, "Write") for name in agent_topics)


def _roles(parties: Iterable[Party]) -> set[Who]:
    return {role for party in parties for role in _ROLES[party]}


def _outside(who: Who, prefix: str) -> Iterator[Grant]:
    both = (prefix, f"dlq.{prefix}")
    if who == "admin":
        # It must see the topics it creates, which Alter includes.
        yield from (Grant("topic", begin, op, prefixed=True) for op in _ADMIN for begin in both)
    elif who == "consumer":
        yield from (Grant("topic", full_name(topic.name, prefix), "Read") for topic in TOPICS if topic.users_read)
    elif who == "producer":
        for topic in TOPICS:
            if topic.users_write and topic.name != "agents":
                yield Grant("topic", full_name(topic.name, prefix), "Write")
        for name in ("results", "plan-results", "events"):  # `submit --wait` follows these
            yield Grant("topic", full_name(name, prefix), "Read")
    elif who == "operator":
        yield from (Grant("topic", begin, "Read", prefixed=True) for begin in both)
        for topic in TOPICS:
            if topic.users_write:
                yield Grant("topic", full_name(topic.name, prefix), "Write")


def kafka_acls(user: str, needed: Iterable[Grant], bootstrap_servers: str) -> list[str]:
    """Commands that give a user these rights; the administrator's own credentials are expected in `admin.properties`.

    >>> print(kafka_acls("shop", [Grant("topic", "p.tasks", "Read"), Grant("topic", "p.plans", "Read")], "b:9092")[0])
    kafka-acls.sh --bootstrap-server b:9092 --command-config admin.properties --add --allow-principal User:shop \\
      --operation Read --topic p.plans --topic p.tasks
    """
    head = f"kafka-acls.sh --bootstrap-server {shlex.quote(bootstrap_servers)} --command-config admin.properties"
    head += f" --add --allow-principal {shlex.quote(f'User:{user}')}"
    commands = []
    for (resource, prefixed, operations), names in _by_operations(needed).items():
        words = [f"--operation {operation}" for operation in operations]
        words += ["--resource-pattern-type prefixed"] if prefixed else []
        words += [f"--{resource} {shlex.quote(name)}" for name in names]
        commands.append(f"{head} \\\n  {' '.join(words)}")
    return commands


def strimzi_acls(needed: Iterable[Grant]) -> list[dict[str, Any]]:
    """The rights in the form of `spec.authorization.acls` of a Strimzi `KafkaUser`.

    >>> strimzi_acls([Grant("transactional-id", "shop-", "Write", prefixed=True)])[0]["resource"]
    {'type': 'transactionalId', 'name': 'shop-', 'patternType': 'prefix'}
    """
    found: dict[tuple[Resource, str, bool], list[Operation]] = {}
    for grant in needed:
        found.setdefault((grant.resource, grant.name, grant.prefixed), []).append(grant.operation)
    return [
        {
            "resource": {
                "type": "transactionalId" if resource == "transactional-id" else resource,
                "name": name,
                "patternType": "prefix" if prefixed else "literal",
            },
            "operations": sorted(operations),
        }
        for (resource, name, prefixed), operations in found.items()
    ]


def _by_operations(needed: Iterable[Grant]) -> dict[tuple[Resource, bool, tuple[Operation, ...]], list[str]]:
    """Groups names that have the same operations."""
    each: dict[tuple[Resource, str, bool], list[Operation]] = {}
    for grant in sorted(needed, key=lambda grant: (_ORDER.index(grant.resource), grant)):
        each.setdefault((grant.resource, grant.name, grant.prefixed), []).append(grant.operation)
    together: dict[tuple[Resource, bool, tuple[Operation, ...]], list[str]] = {}
    for (resource, name, prefixed), operations in each.items():
        together.setdefault((resource, prefixed, tuple(operations)), []).append(name)
    return together
