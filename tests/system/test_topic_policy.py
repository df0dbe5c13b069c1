"""A broker that bounds the settings of topics, as managed services do: everything is created within its bounds, or nothing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.broker.topics_admin import TopicsError, apply, check, describe
from streams.settings import Settings
from streams.statistics import changelog
from tests.conftest import SettingsFor
from tests.support.kafka import KafkaCluster, jars

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("javac") is None, reason="a policy is a class: needs a JDK"),
]
POLICY = """
import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

public class Bounds implements CreateTopicPolicy {
    public void configure(Map<String, ?> configs) {}
    public void close() {}
    public void validate(RequestMetadata request) {
        Map<String, String> given = request.configs();
        atMost(given, "max.message.bytes", 8388608L, true);
        atLeast(given, "segment.bytes", 52428800L);
        atMost(given, "min.compaction.lag.ms", 604800000L, false);
        if (given.containsKey("min.cleanable.dirty.ratio")) throw new PolicyViolationException("not yours to set");
        if ("forbidden".equals(given.get("compression.type"))) throw new PolicyViolationException("no");
    }
    void atMost(Map<String, String> given, String name, long bound, boolean said) {
        if (given.containsKey(name) && Long.parseLong(given.get(name)) > bound)
            throw new PolicyViolationException(said
                ? "Config property '" + name + "' with value '" + given.get(name) + "' exceeded max limit of " + bound + "."
                : "One of the settings is out of bounds.");
    }
    void atLeast(Map<String, String> given, String name, long bound) {
        if (given.containsKey(name) && Long.parseLong(given.get(name)) < bound)
            throw new PolicyViolationException("Config property '" + name + "' with value '" + given.get(name)
                + "' exceeded min limit of " + bound + ".");
    }
}
"""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker with that policy."""
    classes: Path = tmp_path_factory.mktemp("policy")
    (classes / "Bounds.java").write_text(POLICY, "utf-8")
    command = ["javac", "-cp", f"{jars()}/*", "-d", str(classes), str(classes / "Bounds.java")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with KafkaCluster(1, {"create.topic.policy.class.name": "Bounds"}, plugins=[classes]) as cluster:
        yield cluster


async def _topics(settings: Settings) -> dict[str, int | None]:
    return {state.name: state.partitions for state in await describe(settings)}


async def test_topics_are_made_within_the_bounds_and_what_was_adapted_is_reported(
    bounded: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """Also a bound whose setting the broker does not name; the second run has nothing to do; the changelog too."""
    settings = settings_for(bounded)
    changes = {change.name.replace(prefix, "", 1): change for change in await apply(settings, 2)}
    assert {change.action for change in changes.values()} == {"created"}
    assert changes["tasks"].adapted == {"max.message.bytes": ("10485760", "8388608")}
    assert changes["state"].adapted == {"segment.bytes": ("16777216", "52428800")}
    want, used = changes["aggregates"].adapted["min.compaction.lag.ms"]
    assert want == "2678400000"
    assert used is not None
    assert int(used) <= 604_800_000
    assert changes["results"].adapted == {}
    assert await check(settings) == 2
    states = {state.name.replace(prefix, "", 1): state for state in await describe(settings)}
    assert states["tasks"].differences == {"max.message.bytes": ("10485760", "8388608")}
    assert {change.action for change in await apply(settings, 2)} == {"unchanged"}
    options = {"bootstrap_servers": settings.bootstrap_servers}
    assert await changelog.ensure(settings, options) == 2


async def test_a_setting_of_the_user_that_is_refused_is_an_error_and_nothing_is_made(
    bounded: KafkaCluster, prefix: str, settings_for: SettingsFor
) -> None:
    """A clear list; with a value that is taken, or without the setting, all are made."""
    settings = settings_for(bounded)
    tasks, plans = f"{prefix}tasks", f"{prefix}plans"
    chosen = {tasks: {"segment.bytes": "1048576"}, plans: {"compression.type": "forbidden"}}
    with pytest.raises(TopicsError, match=r"refuses 2 of \d\d topics, and none was created") as caught:
        await apply(settings, 1, overrides=chosen)
    assert f"{tasks}: Config property 'segment.bytes'" in str(caught.value)
    assert f"{plans}: " in str(caught.value)
    assert set((await _topics(settings)).values()) == {None}
    taken = {tasks: {"segment.bytes": "104857600", "retention.ms": "3600000"}}
    changes = {
        change.name: change for change in await apply(settings, 1, overrides=taken, left_out=["max.message.bytes"])
    }
    assert changes[tasks].adapted == {}
    found = {state.name: state.differences for state in await describe(settings)}
    assert found[tasks]["retention.ms"] == ("604800000", "3600000")
    assert found[tasks]["max.message.bytes"] == ("10485760", "12582912")


async def test_two_at_once_make_each_topic_once(bounded: KafkaCluster, settings_for: SettingsFor) -> None:
    """Neither takes the other's topic for a refusal."""
    settings = settings_for(bounded)
    both = await asyncio.gather(apply(settings, 1), apply(settings, 1))
    assert all(change.action in ("created", "unchanged") for changes in both for change in changes)
    assert await check(settings) == 1
