"""Oracles about `metadata.notBefore`: no call before its time, one release for each waiting record, and none is left waiting."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator

from schemas.partitioning import owner_partition
from schemas.times import parse_time
from schemas.topics import full_name
from streams.rules.schedules.times import task_id
from streams.rules.source_record import HOPS_HEADER, JUDGED_HEADER, TASK_HEADER
from tests.simulation.scenario import PREFIX, Scenario, Violation
from tests.simulation.world import EPOCH_MS

MS = 0.002
"""Times on the wire are whole milliseconds."""


def not_before(scenario: Scenario) -> Iterator[Violation]:
    """No agent is called before a task's time, by the clock of any worker."""
    for agent in scenario.shared.agents.values():
        for arrival in agent.arrivals:
            sent = scenario.traffic.tasks.get(arrival.task_id)
            if sent is None or sent.not_before is None:
                continue
            if arrival.begun_at < sent.not_before - scenario.clock_spread_s - MS:
                detail = f"called at {arrival.begun_at:.3f}, not before {sent.not_before:.3f}"
                yield Violation("called too early", arrival.task_id, detail)


def one_release(scenario: Scenario) -> Iterator[Violation]:
    """A record that waits is released once, or refused as a duplicate; in the end none waits."""
    waited, open_keys, released = Counter[str](), dict[bytes | None, str](), Counter[str]()
    for record in scenario.committed("scheduled"):
        if record.value is None:
            open_keys.pop(record.key, None)
        else:
            task_id = dict(record.headers)[TASK_HEADER].decode().removeprefix("\0")
            open_keys[record.key] = task_id
            waited[task_id] += 1
    for record in scenario.committed("dispatch"):
        headers = dict(record.headers)
        # Forwarded tasks have a hop behind them, those to be judged an answer.
        if headers.get(HOPS_HEADER) == b"0" and JUDGED_HEADER not in headers:
            released[json.loads(record.value or b"{}")["id"]] += 1
    for task_id, times in released.items():
        if times > waited[task_id]:
            yield Violation("released twice", task_id, f"{times} releases of {waited[task_id]} waiting records")
    for task_id in open_keys.values():
        yield Violation("left waiting", task_id, "its record on `scheduled` has no tombstone")


def one_firing(scenario: Scenario) -> Iterator[Violation]:
    """Each time of a schedule makes one task, not before it, and each has one result."""
    made: dict[str, list[float]] = defaultdict(list)
    for record in scenario.committed("tasks"):
        made[str(json.loads(record.value or b"{}").get("id"))].append(record.timestamp)
    for name, sent in scenario.traffic.schedules.items():
        every_ms, end_ms = sent.body["everyMs"], sent.body["endAt"]
        begun_ms = _begun_ms(scenario, name)
        wanted = {
            task_id(name, at_ms): at_ms
            for at_ms in range(EPOCH_MS - EPOCH_MS % every_ms, end_ms, every_ms)
            if at_ms > begun_ms
        }
        for each, at_ms in wanted.items():
            times = made.get(each, [])
            if len(times) != 1:
                yield Violation("firings", name, f"{each}: {len(times)} tasks")
            if any(at < at_ms - 1000 * (scenario.clock_spread_s + MS) for at in times):
                yield Violation("fired too early", name, f"{each} at {min(times)}")
            if len(scenario.results.get(each, [])) != 1:
                yield Violation(
                    "firing without one result", name, f"{each}: {len(scenario.results.get(each, []))} results"
                )
        for each in made:
            if each.startswith(f"{name}@") and each not in wanted and parse_time(each.partition("@")[2]) < begun_ms:
                yield Violation("fired before it was there", name, each)


def _begun_ms(scenario: Scenario, name: str) -> float:
    """When a schedule first came to the partition of its id: written there, or sent on from another."""
    times = [float("inf")]
    for (topic, number), log in scenario.broker.logs.items():
        if topic != full_name("schedules", PREFIX):
            continue
        for record in log.records:
            if record.committed and record.value and record.key == name.encode():
                count = scenario.partitions_at((record.timestamp - EPOCH_MS) / 1000, "schedules")
                if owner_partition(name, count) == number:
                    times.append(record.timestamp)
    return min(times)


ORACLES = (not_before, one_release, one_firing)
