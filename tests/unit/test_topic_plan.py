"""What `topics apply` decides, without a broker."""

from __future__ import annotations

import doctest
import re

import pytest

from schemas.topics import BY_NAME, DEFAULT_PARTITIONS, INTAKE, LARGE_RECORD_BYTES, dead_letter_topics, full_name
from streams.rules.broker import topic_plan, topic_settings
from streams.rules.broker.topic_plan import TopicChange, plan, wanted
from streams.rules.broker.topic_settings import SettingError, candidates, parse_overrides

P = "p."
ALL = wanted(P)


def decided(existing: dict[str, int], partitions: int | None) -> dict[str, TopicChange]:
    """Short name -> decision."""
    return {change.name.replace(P, "", 1): change for change in plan(ALL, existing, partitions)}


def test_doctests() -> None:
    """The examples in the module hold."""
    assert doctest.testmod(topic_plan).failed == 0


def test_everything_wanted_once_with_dead_letters_that_hold_the_largest_record() -> None:
    """Every row and every dead-letter topic, the latter a bit larger than what may enter."""
    names = [topic.name for topic in ALL]
    assert len(set(names)) == len(names) == len(BY_NAME) + len(dead_letter_topics())
    dead = next(topic for topic in ALL if topic.name == full_name("dlq.tasks", P))
    assert int(dead.config["max.message.bytes"]) > LARGE_RECORD_BYTES
    assert dead.config["retention.ms"] == str(7 * 24 * 3_600_000)


def test_fresh_broker_gets_the_default_except_where_the_table_says() -> None:
    """Eight partitions, one for what every worker reads whole."""
    changes = decided({}, None)
    assert {change.action for change in changes.values()} == {"created"}
    assert [changes.pop(name).partitions for name in ("agents", "standings", "calibrations")] == [1, 1, 1]
    assert {change.partitions for change in changes.values()} == {DEFAULT_PARTITIONS}


def test_a_tasks_topic_that_exists_sets_the_count_of_what_is_missing() -> None:
    """Users may have made `tasks` themselves."""
    changes = decided({f"{P}tasks": 3}, None)
    assert changes["tasks"] == TopicChange(f"{P}tasks", "unchanged", 3, 3)
    assert (changes["dispatch"].partitions, changes["events"].partitions, changes["agents"].partitions) == (3, 3, 1)


@pytest.mark.parametrize("smaller", INTAKE)
def test_intake_topics_are_grown_to_the_largest_of_them(smaller: str) -> None:
    """Whichever of the three is behind."""
    changes = decided({f"{P}{name}": 2 if name == smaller else 5 for name in INTAKE}, None)
    assert {changes[name].partitions for name in INTAKE} == {5}
    assert changes[smaller] == TopicChange(f"{P}{smaller}", "grown", 5, 2)
    assert sum(changes[name].action == "grown" for name in INTAKE) == 1


def test_other_topics_grow_only_when_asked_and_fixed_ones_never() -> None:
    """Growing moves keys, so it needs the user's word."""
    existing = {topic.name: topic.partitions or (2 if topic.name == f"{P}anomalies" else 4) for topic in ALL}
    assert {change.action for change in decided(existing, None).values()} == {"unchanged"}
    changes = decided(existing, 6)
    assert changes["anomalies"] == TopicChange(f"{P}anomalies", "grown", 6, 2)
    assert changes["agents"].action == "unchanged"


def test_nothing_ever_shrinks() -> None:
    """A smaller number leaves what is there, and new topics still match the intake."""
    existing = {topic.name: 10 for topic in ALL if topic.name != f"{P}events"}
    changes = decided(existing, 4)
    assert {change.partitions for name, change in changes.items() if name != "events"} == {10}
    assert changes["events"] == TopicChange(f"{P}events", "created", 10)


@pytest.mark.parametrize(
    ("given", "wanted_words"),
    [
        ("tasks.retention.ms", "--set tasks.retention.ms: want topic.config=value"),
        ("nothing.retention.ms=1", "--set nothing.retention.ms=1: want"),
        ("tasks.=1", "--set tasks.=1: want"),
        ("tasks.retention.ms=", "--set tasks.retention.ms=: want"),
        ("=", "--set =: want"),
    ],
)
def test_an_override_that_cannot_be_read_says_what_is_wanted(given: str, wanted_words: str) -> None:
    """It names what was given."""
    with pytest.raises(SettingError, match=re.escape(wanted_words)):
        parse_overrides([given], {"tasks": "p.tasks"})


def test_overrides_of_a_topic_a_dead_letter_topic_and_all() -> None:
    """Short and full names; the longest name wins; the later value wins."""
    names = {"tasks": "p.tasks", "p.tasks": "p.tasks", "dlq.tasks": "dlq.p.tasks"}
    given = ["*.min.insync.replicas=1", "p.tasks.retention.ms=5", "dlq.tasks.retention.ms=7", "tasks.retention.ms=6"]
    assert parse_overrides(given, names) == {
        "p.tasks": {"min.insync.replicas": "1", "retention.ms": "6"},
        "dlq.p.tasks": {"min.insync.replicas": "1", "retention.ms": "7"},
    }


@pytest.mark.parametrize("name", sorted({name for topic in ALL for name in topic.config}))
def test_what_is_tried_for_a_refused_setting_ends_with_the_brokers_own(name: str) -> None:
    """Every value once, never the refused one; numbers the broker names come first, when they lie between."""
    value = next(topic.config[name] for topic in ALL if name in topic.config)
    tried = list(candidates(name, value, f"{name} {value}: no"))
    assert tried[-1] is None
    assert value not in tried
    assert len(set(tried)) == len(tried) <= 16
    assert doctest.testmod(topic_settings).failed == 0
