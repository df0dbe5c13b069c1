"""Strimzi's resources say of each topic what `parallax topics apply` would make it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from schemas.strimzi import kafka_topics
from streams.broker.topics_admin import wanted
from streams.cli.main import invoke
from streams.cli.strimzi import MADE, pages

COMMITTED = Path(__file__).resolve().parents[2] / "deploy" / "strimzi" / "topics.yaml"
DNS = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def test_the_committed_file_is_in_step() -> None:
    """Regenerate with `make schemas`."""
    assert COMMITTED.read_text("utf-8") == f"{MADE}{pages(kafka_topics())}\n"
    assert list(yaml.safe_load_all(COMMITTED.read_text("utf-8"))) == kafka_topics()


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
    assert printed == kafka_topics("north", "p.", 4)
    assert invoke(["docs", "strimzi", "--topic-prefix", "parallax.", "--write", str(tmp_path)]) == 0
    assert (tmp_path / "topics.yaml").read_text("utf-8") == COMMITTED.read_text("utf-8")
