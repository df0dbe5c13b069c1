"""Fits the settings of new topics to the cluster: managed services refuse some values, each different ones.

In: topics to be created, with their settings. Out: settings that the cluster accepts, and what was changed; or every
topic that it refuses, with its reason. The cluster is asked by a dry run (`validate_only`), to which its policy answers
as to a real one. Settings that the user chose are never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.rules.broker.topic_settings import candidates

BROKER_DEFAULT = -1
_CONFIG_ERRORS = (
    kafka_errors.PolicyViolationError,
    kafka_errors.InvalidConfigurationError,
    kafka_errors.InvalidRequestError,
)
_LATER = (kafka_errors.TopicAlreadyExistsError, kafka_errors.InvalidReplicationFactorError)
"""Errors that creating the topic handles itself."""

Adapted = dict[str, tuple[str, str | None]]
"""Setting -> wanted value, used value (None: the cluster's default)."""


@dataclass(slots=True)
class NewShape:
    """One topic to be created. `chosen`: the names of settings that the user set."""

    name: str
    partitions: int
    config: dict[str, str]
    chosen: frozenset[str] = frozenset()
    adapted: Adapted = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the cluster refuses a topic."""

    name: str
    error: Any
    message: str


class Fitting:
    """One run over an open admin client. `replication_factor`: None = the cluster's default."""

    def __init__(self, admin: AIOKafkaAdminClient, replication_factor: int | None) -> None:
        self._admin = admin
        self._replication_factor = replication_factor
        self._known: dict[
            tuple[str, str], str | None
        ] = {}  # setting and value that were refused -> what is taken instead

    async def fit(self, shapes: Sequence[NewShape]) -> list[Refusal]:
        """Change `config` and `adapted` of the shapes until the cluster accepts them; returns those it still
        refuses.
        """
        refused = await self._refusals(shapes)
        left: list[Refusal] = []
        for shape in shapes:
            refusal = refused.get(shape.name)
            for _ in range(len(shape.config) + 1):
                if refusal is None or not await self._adapt(shape, refusal):
                    break
                refusal = (await self._refusals([shape])).get(shape.name)
            if refusal is not None:
                left.append(refusal)
        return left

    async def _adapt(self, shape: NewShape, refusal: Refusal) -> bool:
        """Change one setting that the cluster refuses; False: no known change would help."""
        if refusal.error not in _CONFIG_ERRORS:
            return False
        known = [name for name in shape.config if name not in shape.chosen]
        named = [name for name in known if name in refusal.message]
        # A name may be part of another: retention.ms of delete.retention.ms.
        suspects = sorted(named, key=len, reverse=True) or known
        for name in suspects:
            value = shape.config[name]
            if (name, value) in self._known:
                self._use(shape, name, self._known[name, value])
                return True
            alone = (await self._refusals([self._with(shape, name, value)])).get(shape.name)
            if alone is None or alone.error not in _CONFIG_ERRORS:
                continue
            for candidate in candidates(name, value, alone.message):
                trial = await self._refusals([self._with(shape, name, candidate)])
                if shape.name not in trial:
                    self._known[name, value] = candidate
                    self._use(shape, name, candidate)
                    return True
        return False

    @staticmethod
    def _with(shape: NewShape, name: str, value: str | None) -> NewShape:
        return NewShape(shape.name, shape.partitions, {} if value is None else {name: value})

    @staticmethod
    def _use(shape: NewShape, name: str, value: str | None) -> None:
        shape.adapted[name] = shape.config.pop(name), value
        if value is not None:
            shape.config[name] = value

    async def _refusals(self, shapes: Sequence[NewShape]) -> Mapping[str, Refusal]:
        answer = await self._admin.create_topics(
            [new_topic(shape.name, shape.partitions, shape.config, self._replication_factor) for shape in shapes],
            validate_only=True,
        )
        found = {}
        for name, code, *message in answer.topic_errors:
            error: Any = kafka_errors.for_code(code)
            if code != 0 and error not in _LATER and not error.retriable:
                found[name] = Refusal(name, error, (message[0] if message else None) or error.description)
        return found


def new_topic(name: str, partitions: int, config: Mapping[str, str], replication_factor: int | None) -> NewTopic:
    """The request for one topic."""
    topic = NewTopic(name, partitions, 1, topic_configs=dict(config))
    # aiokafka refuses -1 in the constructor; on the wire it means the broker's default.
    topic.replication_factor = BROKER_DEFAULT if replication_factor is None else replication_factor
    return topic
