"""A secured broker: TLS, SCRAM and ACLs. Everybody gets everything done with the rights of the table, and needs each of them."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest

from schemas.access import WORKER, Grant, Who
from tests.support.secured import SecuredCluster, secured
from tests.support.secured_work import OUTSIDE, PARTITIONS, TASKS, Work, agents, everything, prepare, workers

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(480)]
FAULTY = ("faulty", "nobody")


@pytest.fixture(scope="module")
def broker() -> Iterator[SecuredCluster]:
    """One for the module; it knows everybody, whoever has rights or not."""
    with secured([*WORKER, *OUTSIDE, *FAULTY]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def work(broker: SecuredCluster, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Everything was done once."""
    done = Work(broker, f"s{uuid.uuid4().hex[:8]}.")
    folder = tmp_path_factory.mktemp("work")
    prepare(done)
    with agents(done) as fleet, workers(done, fleet, folder):
        everything(done, fleet, folder)
    return done


def test_every_task_has_one_result_and_everything_else_is_done_too(work: Work) -> None:
    """Tasks of every kind, a plan, statistics, letters and the commands, all over TLS and SCRAM."""
    counts = Counter(result["taskId"] for result in work.records["results"])
    assert set(counts.values()) == {1}
    assert {f"t{n}" for n in range(TASKS)} | {f"away{n}" for n in range(TASKS)} <= set(counts)
    assert {"busy1", "far1", "p1"} <= set(counts)
    statuses = {result["taskId"]: result["status"] for result in work.records["results"]}
    assert statuses["p1"] == statuses["far1"] == statuses["busy1"] == "success"
    assert len(work.said["results"].splitlines()) == TASKS
    assert json.loads(work.said["plan-results"])["status"] == "success"
    assert len(work.said["tail"].splitlines()) == TASKS
    assert {json.loads(row)["id"] for row in work.said["agents"].splitlines()} >= {"good", "filed"}
    rows = [json.loads(row) for row in work.said["topics"].splitlines()]
    assert {row["partitions"] for row in rows if row["topic"].endswith((".tasks", ".dispatch"))} == {PARTITIONS}


@pytest.mark.parametrize("who", [*WORKER, *OUTSIDE])
def test_nobody_is_refused_anything_and_everybody_needs_each_right(work: Work, who: Who) -> None:
    """By the broker's own audit: what was asked of it, and by which right it was allowed."""
    audit = work.broker.audit(who)
    # A list of open transactions leaves out those of other roles; the broker audits that it asked whether they may be seen.
    mine = f"DESCRIBE TransactionalId:LITERAL:{work.app}-{who}-"
    refused = [asked.what for asked in audit if not asked.allowed]
    assert [what for what in refused if not what.startswith("DESCRIBE TransactionalId:") or what.startswith(mine)] == []
    # Written to only when a commit's offset map is nearly full, which takes thousands of tasks (`test_head_of_line.py`).
    rare = {str(right) for right in work.rights(who) if right.operation == "Write" and right.name.endswith(".parked")}
    used = {asked.right for asked in audit if asked.right and asked.what.startswith(_asked(asked.right))}
    assert {str(right) for right in work.rights(who)} - {str(right) for right in used} <= rare


def _asked(right: Grant) -> str:
    """How the audit names an operation: a right to write that was only looked at by is not used."""
    return "".join(f"_{c}" if c.isupper() else c.upper() for c in right.operation).lstrip("_") + " "
