"""Oracles about `metadata.notBefore`: no call before its time, one release for each waiting record, and none is left waiting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from streams.rules.source_record import HOPS_HEADER, JUDGED_HEADER, TASK_HEADER
from tests.simulation.scenario import Scenario, Violation

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
            task_id = dict(record.headers)[TASK_HEADER].decode()
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


ORACLES = (not_before, one_release)
