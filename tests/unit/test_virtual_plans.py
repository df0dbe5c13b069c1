"""Plans in `VirtualTime`: the results are those of a worker on a broker, the hours take no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents_io.fakes.steps import answer
from streams import InvalidTask, WaitTimeout, dag, parallel, sequence, step
from streams.testing import FakeAgent, VirtualTime, hang, status
from tests.support.plan_cases import AGENTS, CANCEL_REASON, PATIENT, TEMPLATES, WIDE, Case, all_cases, untimed


def fakes() -> list[FakeAgent]:
    """The agents of the cases."""
    return [FakeAgent(steps, id=name, limits=WIDE, breaker=PATIENT) for name, steps in AGENTS.items()]


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """The patterns of the cases, as a worker reads them."""
    file = tmp_path / "templates.jsonl"
    file.write_text("".join(json.dumps(template) + "\n" for template in TEMPLATES))
    return file


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_each_result_is_that_of_a_worker_on_a_broker(case: Case, templates: Path) -> None:
    """The matrix that `test_plans_embedded` and `test_plans` run on brokers."""
    with VirtualTime(agents=fakes(), settings={"plans.templates": str(templates)}) as v:
        sent = v.submit_plan(case.plan)
        if case.cancel:
            v.advance("5s")
            assert not sent.done
            v.cancel(case.id, reason=CANCEL_REASON)
        found = sent.outcome().wire()
    assert untimed(found) == case.expected()


def test_a_sequence_of_hours_passes_at_once() -> None:
    """Each step sees what came before; a retry waits as it does for a plain task."""
    slow = FakeAgent([status(503, retry_after="200", times=1), answer("slept", delay_s=3600)], id="slow")
    with VirtualTime(agents=[slow, FakeAgent(lambda payload: payload["context"]["previous"], id="relay")]) as v:
        result = v.plan(sequence([step("slow", timeout="2h"), step("relay", timeout="2h")], id="p"))
        assert (result.status, result.result) == ("success", "slept")
        assert 3800 <= v.elapsed < 3900
        assert result.execution_time == pytest.approx(v.elapsed * 1000, abs=10)
        assert [call.task_id for call in v.calls] == ["p#0", "p#0", "p#1"]


def test_a_race_stops_the_losers_at_their_agents() -> None:
    """The loser's slot is free again at that moment, for a task that waits."""
    loser = FakeAgent([hang(times=1), "free"], id="loser", limits={"maxConcurrency": 1})
    with VirtualTime(agents=[FakeAgent(answer("won", delay_s=600), id="winner"), loser]) as v:
        sent = v.submit_plan(parallel([step("loser", timeout="9h"), step("winner", timeout="1h")], strategy="race"))
        waiting = v.submit("loser", {"n": 2})
        assert sent.outcome().result == "won"
        assert waiting.result().value == "free"
        assert v.elapsed == pytest.approx(600, abs=5)
        kinds = [event["type"] for event in v.events]
        assert kinds.count("plan:completed") == 1
        assert "task:cancelled" in kinds


def test_a_plan_ends_at_its_deadline() -> None:
    """Whether it has a time of its own or a deadline, which its steps inherit."""
    with VirtualTime(agents=[FakeAgent(hang(), id="a")]) as v:
        begun = v.elapsed
        assert v.plan(parallel([step("a", timeout="9h")], timeout="1h")).status == "timeout"
        assert v.elapsed - begun == pytest.approx(3600)
        begun = v.elapsed
        assert v.plan(dag({"one": step("a", timeout="9h")}, expiresIn=7_200_000)).status == "timeout"
        assert v.elapsed - begun == pytest.approx(7200)


def test_a_cancelled_plan_begins_no_more_steps() -> None:
    with VirtualTime(agents=[FakeAgent(answer("ok", delay_s=60), id="a")]) as v:
        sent = v.submit_plan(sequence([step("a", n, timeout="2m") for n in range(5)], id="p"))
        v.advance("90s")
        v.cancel("p")
        result = sent.outcome()
        assert result.status == "cancelled"
        assert [one.status for one in result.results] == ["success", *["cancelled"] * 4]
        assert len(v.calls) == 2
        v.advance("1h")
        assert len(v.calls) == 2


def test_mistakes_have_reasons() -> None:
    steps: list[Any] = [step("a", id="x"), step("a", id="x")]
    with VirtualTime(agents=[FakeAgent(hang(), id="a")]) as v:
        with pytest.raises(InvalidTask, match=r"tasks\.1\.id"):
            v.plan(parallel(steps))
        with pytest.raises(WaitTimeout, match="plan p has no result after 60 s"):
            v.plan(parallel([step("a", timeout="1h")], id="p"), wait="1m")
        v.submit_plan(parallel([step("a")], id="p"))
        v.advance("1s")
        assert [event["type"] for event in v.events].count("plan:duplicate") == 1
    with pytest.raises(RuntimeError, match="with VirtualTime"):
        v.plan(parallel([step("a")]))
