"""Who needs which rights: worked out from the table of topics, with names that are those of the code."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from schemas.access import CHANGELOG, EVERYBODY, WORKER, Grant, grants, kafka_acls, strimzi_acls
from schemas.topics import INTAKE, PLAN_INTAKE, SCHEDULE_INTAKE, TOPICS, dead_letter_topics, full_name
from streams.cli.main import build
from streams.statistics import table
from streams.statistics.app import group_id
from tests.conftest import SettingsFor


def named(who: list[str], operation: str) -> set[str]:
    """The topics they may do this with."""
    found = grants(who, "p.", "shop")  # type: ignore[arg-type]
    return {grant.name for grant in found if grant.resource == "topic" and grant.operation == operation}


def test_every_topic_is_written_and_read_by_somebody() -> None:
    """A new row of the table with a word nobody knows fails here, not at a user's."""
    everybody = list(EVERYBODY)
    names = {full_name(topic.name, "p.") for topic in TOPICS}
    letters = {full_name(name, "p.") for name in dead_letter_topics()}
    assert names | letters <= named(list(WORKER), "Write") | named(["producer"], "Write")
    assert names - named(everybody, "Read") == set()


def test_roles_have_what_their_engines_read_and_no_other_input() -> None:
    """Dispatch cannot read plans, statistics cannot read tasks."""
    assert {f"p.{name}" for name in INTAKE} <= named(["dispatch"], "Read")
    assert {f"p.{name}" for name in PLAN_INTAKE} <= named(["plans"], "Read")
    assert {f"p.{name}" for name in SCHEDULE_INTAKE} <= named(["schedules"], "Read")
    assert "p.plans" not in named(["dispatch"], "Read")
    assert "p.tasks" not in named(["stats"], "Read") | named(["plans"], "Read")
    assert named(["consumer"], "Write") == named(["admin"], "Read") == set()


def test_names_are_those_the_worker_uses(settings_for: SettingsFor) -> None:
    """The changelog, and groups; the transactional ids begin with these."""
    assert table.CHANGELOG == CHANGELOG
    settings = settings_for("h:1")
    assert group_id(settings) == f"{settings.app_id}-stats"
    groups = {grant.name for grant in grants(WORKER, "p.", "shop") if grant.resource == "group"}
    assert groups == {"shop.p-dispatch", "shop.p-plans", "shop.p-schedules", "shop.p-stats"}
    ids = {grant.name for grant in grants(WORKER, "p.", "shop") if grant.resource == "transactional-id"}
    assert ids == {f"{group}-" for group in groups}


def test_commands_and_strimzi_give_each_right_once() -> None:
    """Read back from the words, they are the rights that went in."""
    needed = grants(WORKER, "p.", "my shop", agent_topics=["in"])
    found = []
    for command in kafka_acls("me", needed, "b:9092"):
        words = shlex.split(command.replace("\\\n", " "))
        pairs = [(flag[2:], value) for flag, value in pairwise(words) if flag.startswith("--")]
        prefixed = ("resource-pattern-type", "prefixed") in pairs
        operations = [value for flag, value in pairs if flag == "operation"]
        names = [(flag, value) for flag, value in pairs if flag in ("topic", "group", "transactional-id")]
        found += [Grant(kind, name, op, prefixed) for kind, name in names for op in operations]  # type: ignore[arg-type]
        assert ("allow-principal", "User:me") in pairs
    assert sorted(found) == sorted(needed)
    rows = strimzi_acls(needed)
    assert sum(len(row["operations"]) for row in rows) == len(needed)
    assert {row["resource"]["type"] for row in rows} == {"topic", "group", "transactionalId"}


@pytest.mark.parametrize("who", [who for who in EVERYBODY if who != "agent"])
def test_the_command_prints_a_row_for_each_right(who: str) -> None:
    """As JSON lines, for the prefix and app id asked for."""
    words = ["docs", "acls", who, "--topic-prefix", "p.", "--app-id", "shop", "-o", "jsonl"]
    ended = CliRunner().invoke(build(), words)
    assert ended.exit_code == 0
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    needed = grants([who], "p.", "shop")  # type: ignore[list-item]
    assert [(row["resource"], row["name"], row["operation"], row["pattern"] == "prefixed") for row in rows] == [
        (grant.resource, grant.name, grant.operation, grant.prefixed) for grant in needed
    ]
