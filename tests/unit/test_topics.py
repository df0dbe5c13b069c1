"""The one table of topics holds together."""

from __future__ import annotations

import pytest

from schemas.messages import Message
from schemas.topics import BY_NAME, INTAKE, TOPICS, Topic, dead_letter_topics, full_name


def test_names_are_unique_and_legal() -> None:
    """Two rows of one name would overwrite each other; Kafka allows few characters."""
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names) == len(BY_NAME)
    assert all(name.replace("-", "").isalnum() and name.islower() for name in names)


def test_every_topic_carries_a_message_with_its_own_event_type() -> None:
    """The CloudEvents type follows from the message; topics share one only when they share the message."""
    by_type: dict[str, set[type[Message]]] = {}
    for topic in TOPICS:
        assert issubclass(topic.message, Message)
        by_type.setdefault(topic.ce_type, set()).add(topic.message)
    assert all(len(messages) == 1 for messages in by_type.values())
    assert BY_NAME["plan-results"].ce_type == "io.parallax.plan_result.v1"


def test_intake_topics_follow_one_partition_count_and_take_the_same_records() -> None:
    """Equal counts give partition p of all three one owner; what fits into tasks must fit when it is forwarded or parked."""
    intake = [BY_NAME[name] for name in INTAKE]
    assert {topic.partitions for topic in intake} == {None}
    assert len({(topic.message, topic.max_message_bytes) for topic in intake}) == 1


def test_dead_letter_topics_stand_for_rows_that_have_them() -> None:
    """Each is named after its source and is no topic of the table itself."""
    assert dead_letter_topics() == tuple(f"dlq.{topic.name}" for topic in TOPICS if topic.dead_letters)
    assert {"dlq.tasks", "dlq.plans", "dlq.data-points"} <= set(dead_letter_topics())
    assert not set(dead_letter_topics()) & set(BY_NAME)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_config_is_text_and_fits_the_cleanup(topic: Topic) -> None:
    """A compacted-only topic has no retention; every value is text, as the wire wants it."""
    config = topic.config()
    assert all(isinstance(value, str) for value in config.values())
    assert set(config["cleanup.policy"].split(",")) <= {"delete", "compact"}
    assert ("retention.ms" in config) == ("delete" in topic.cleanup)


def test_full_names_are_distinct_under_a_prefix() -> None:
    """A dead-letter name never collides with a plain one."""
    short = [*BY_NAME, *dead_letter_topics()]
    assert len({full_name(name, "acme.") for name in short}) == len(short)
