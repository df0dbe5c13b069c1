"""Plans and results of steps that are in another partition than they belong to, as after partitions were added."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from schemas.partitioning import owner_partition
from streams.rules.source_record import HOPS_HEADER, STEP_HEADER
from tests.support.coordinating import Coordinating, one, topics
from tests.support.partition_fakes import intake
from tests.support.plans import plan

pytestmark = pytest.mark.virtual_time


def plan_in(number: int, partitions: int) -> str:
    """The id of a plan that belongs to this partition of so many."""
    return next(name for name in (f"p{n}" for n in range(100)) if owner_partition(name, partitions) == number)


@pytest.mark.parametrize("headers", [(), ((HOPS_HEADER, b"5"),), (("mine", b"1"),)])
async def test_a_plan_that_lies_elsewhere_than_its_results_will_is_sent_on(headers: Any) -> None:
    """With its bytes as they are, whatever its headers say: in a wrong partition it would never end."""
    it = Coordinating(partitions=8)
    name = plan_in(3, 8)
    it.handler.process(
        "plans", intake(1, raw := orjson.dumps(plan("a") | {"id": name}), source="plans", headers=headers)
    )
    [(_, _, [forward])] = it.partition.ended
    assert (forward.topic, forward.partition, forward.value, forward.key) == ("plans", 3, raw, name.encode())
    assert forward.headers == [pair for pair in headers if pair[0] == "mine"]


def result(name: str, **fields: Any) -> dict[str, Any]:
    """A result, of a step or another task."""
    wire = {"taskId": name, "status": "success", "result": 1, "confidence": 0.5, "executionTime": 1, "retries": 0}
    return wire | {"cached": False, "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {}} | fields


async def test_a_steps_result_goes_where_its_plan_is_since_partitions_were_added() -> None:
    """With the place of its record; there it counts as any other. Results of plain tasks, and of ended plans, go nowhere."""
    it = Coordinating(partitions=8)
    there, here = plan_in(3, 8), plan_in(0, 8)
    value = orjson.dumps(result(f"{there}#0", planId=there))
    it.handler.process("results", intake(7, value, source="results", key=there.encode()))
    [(_, _, [forward])] = it.partition.ended
    assert (forward.topic, forward.partition, forward.key, forward.value) == ("plans", 3, there.encode(), value)
    assert dict(forward.headers)[STEP_HEADER] == b"0/7"
    for name, fields in (("t1", {}), (f"{here}#0", {"planId": here}), ("mine", {"planId": there})):
        key = fields.get("planId", name).encode()
        it.handler.process("results", intake(8, orjson.dumps(result(name, **fields)), source="results", key=key))
    assert len(it.partition.ended) == 1
    it.plan(plan("a") | {"id": here})
    told = it.take("plans", result(f"{here}#0", planId=here), here, headers=((STEP_HEADER, b"5/9"),))
    assert one(told, "plan-results")["status"] == "success"
    assert topics(it.take("plans", result(f"{here}#0", planId=here), here, headers=((STEP_HEADER, b"5/9"),))) == []


async def test_a_plan_that_went_to_an_added_partition_is_not_resumed_where_it_was() -> None:
    """Its rows stay there: the new partition may not have read them yet."""
    count = [1]
    it = Coordinating(partitions=count)
    gone, stays = plan_in(1, 2), plan_in(0, 2)
    for name in (gone, stays):
        it.plan(plan("a") | {"id": name})
    rows = len(it.state)
    count[0] = 2
    it.restart()
    assert it.commit() == []
    assert len(it.state) == rows
    assert (it.handler.view(gone), it.handler.view(stays) is None) == (None, False)
