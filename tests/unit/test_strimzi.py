"""Strimzi's resources say of each topic what `parallax topics apply` would make it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.access import grants, strimzi_acls
from schemas.strimzi import USERS, kafka_topics, kafka_users
from streams.cli.main import invoke
from streams.cli.strimzi import MADE, pages
from streams.rules.broker.topic_plan import wanted

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "strimzi"
DNS = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@pytest.mark.parametrize(("file", "found"), [("topics.yaml", kafka_topics()), ("users.yaml", kafka_users())])
def test_the_committed_files_are_in_step(file: str, found: list[dict[str, Any]]) -> None:
    """Regenerate with `make schemas`."""
    text = (DIRECTORY / file).read_text("utf-8")
    assert text == f"{MADE}{pages(found)}\n"
    assert list(yaml.safe_load_all(text)) == found


def test_users_may_what_the_table_of_rights_says() -> None:
    """And are what the operator reads: the version since 1.0, `operations` in place of `operation`."""
    for user, (name, who) in zip(kafka_users("north", "p.", "shop"), USERS, strict=True):
        assert (user["apiVersion"], user["kind"]) == ("kafka.strimzi.io/v1", "KafkaUser")
        assert user["metadata"]["name"] == name
        assert user["metadata"]["labels"]["strimzi.io/cluster"] == "north"
        assert user["spec"]["authentication"] == {"type": "scram-sha-512"}
        group = name if who == ("consumer",) else None
        assert user["spec"]["authorization"] == {
            "type": "simple",
            "acls": strimzi_acls(grants(who, "p.", "shop", group=group)),
        }
        for acl in user["spec"]["authorization"]["acls"]:
            assert acl.keys() == {"resource", "operations"}
            assert acl["resource"].keys() == {"type", "name", "patternType"}
            assert "Create" not in acl["operations"] or acl["resource"]["name"] == "p.stats-changelog"


@pytest.mark.parametrize("prefix", ["parallax.", "acme."])
def test_every_topic_is_as_topics_apply_makes_it(prefix: str) -> None:
    """Name, partitions and settings; no topic more, none less, and aligned ones equal."""
    found = {topic["spec"]["topicName"]: topic["spec"] for topic in kafka_topics("c", prefix, 12, 2)}
    expected = {topic.name: topic for topic in wanted(prefix)}
    assert found.keys() == expected.keys()
    for name, spec in found.items():
        assert spec["config"] == expected[name].config
        assert spec["partitions"] == (expected[name].partitions or 12)
        assert spec["replicas"] == 2
    assert {found[name]["partitions"] for name, topic in expected.items() if topic.aligned} == {12}


def test_resources_are_what_the_operator_reads() -> None:
    """The version since 1.0, the label that says whose they are, names that Kubernetes takes; values of settings are scalars."""
    for topic in kafka_topics("north"):
        assert (topic["apiVersion"], topic["kind"]) == ("kafka.strimzi.io/v1", "KafkaTopic")
        assert topic["metadata"]["labels"]["strimzi.io/cluster"] == "north"
        assert DNS.fullmatch(topic["metadata"]["name"])
        assert len(topic["metadata"]["name"]) <= 253
        assert topic["spec"].keys() == {"topicName", "partitions", "replicas", "config"}
        assert all(isinstance(value, str) for value in topic["spec"]["config"].values())


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To stdout as YAML, or into a directory."""
    assert invoke(["docs", "strimzi", "--cluster", "north", "--partitions", "4", "--topic-prefix", "p."]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert printed == kafka_topics("north", "p.", 4) + kafka_users("north", "p.")
    assert invoke(["docs", "strimzi", "--topic-prefix", "parallax.", "--write", str(tmp_path)]) == 0
    for file in ("topics.yaml", "users.yaml"):
        assert (tmp_path / file).read_text("utf-8") == (DIRECTORY / file).read_text("utf-8")
