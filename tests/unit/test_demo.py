"""The demo's parts: the agents are honest, the board adds up right, failures are told, children do not outlive their parent."""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import io
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from rich.console import Console

from schemas.codec import decode
from schemas.messages import Task
from streams.demo import agents, board, dev, models, stage, traffic, view
from streams.demo.agents import DemoAgent
from streams.demo.board import Board, BoardEvent, task_id
from streams.demo.children import Child, ChildFailed, clean_environment
from streams.demo.models import BAD_AGENT, KINDS, NEUTRAL, RAMP, Classifier, Row, Sight
from streams.demo.run import Demo, Script
from streams.demo.stage import Stage
from streams.demo.summary import program
from streams.rules.detection.alarms import Moment as Place
from streams.rules.detection.alarms import SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.settings import Settings

TRAINING, UNSEEN = models.split(models.rows())
TRAINED = {key: Classifier(kind, TRAINING) for key, kind in KINDS.items()}


def judged(classifier: Classifier, sight: Sight, sites: list[Row]) -> tuple[float, float]:
    """Accuracy and mean confidence over the sites, seen through `sight`."""
    right = sure = 0.0
    for features, label in sites:
        answer, confidence = classifier.answer(sight.see(features))
        right += answer is label
        sure += confidence
    return right / len(sites), sure / len(sites)


@pytest.mark.parametrize("module", [models, board, view])
def test_doctests(module: Any) -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("key", list(KINDS))
def test_a_healthy_agent_is_right_about_sites_it_never_saw(key: str) -> None:
    """Each of the three is a real classifier: 85 % and better, confidences in [0.5, 1]."""
    accuracy, _ = judged(TRAINED[key], Sight(random.Random(0)), UNSEEN)
    assert accuracy > 0.85
    assert all(0.5 <= TRAINED[key].answer(features)[1] <= 1 for features, _ in UNSEEN)


def test_a_degraded_agent_loses_accuracy_and_confidence_by_its_own_reckoning() -> None:
    """With its lookups gone the bad agent guesses, and its own probability says so."""
    sight = Sight(random.Random(0))
    bad = TRAINED["NB"]
    healthy = judged(bad, sight, UNSEEN)
    sight.turn("degraded")
    judged(bad, sight, UNSEEN[:RAMP])
    ill = judged(bad, sight, UNSEEN)
    assert ill[0] < 0.6 < healthy[0]
    assert ill[1] < healthy[1] - 0.35
    sight.turn("healthy")
    assert judged(bad, sight, UNSEEN) == healthy


def test_lookups_are_lost_bit_by_bit() -> None:
    """First few, then all; lost features read as the data set's own "cannot say"."""
    sight = Sight(random.Random(3))
    site = {f"f{number}": 1.0 for number in range(50)}
    sight.turn("degraded")
    lost = [sum(value == NEUTRAL for value in sight.see(site).values()) for _ in range(RAMP)]
    assert lost[0] < 10 < lost[RAMP // 2] < lost[-1] == 50
    assert site["f0"] == 1.0


@pytest.mark.parametrize("key", list(KINDS))
def test_calibration_no_alarm_on_a_healthy_agent_and_two_on_the_ill_one(key: str) -> None:
    """With the demo's own orders of sites the detectors are silent until the features go."""
    classifier, script, sight = TRAINED[key], Script(), Sight(random.Random(7))
    detectors = Detectors(SeriesId(key, "", "agent"), Thresholds(check_interval_ms=10_000))
    stream = traffic.tasks("t", UNSEEN, [key], range(script.rounds), 1000)
    interval_ms = round(1000 * len(KINDS) / script.rate)
    sites = [task["payload"]["data"] for task in stream]
    seen: dict[str, list[str]] = {"healthy": [], "degraded": []}
    for number, features in enumerate([*sites, *sites[:300]]):
        if number == len(sites):
            sight.turn("degraded")
        _, confidence = classifier.answer(sight.see(features))
        at = Place(0, number, 1_700_000_000_000 + number * interval_ms)
        seen[sight.condition] += [a.type for a in detectors.observe(confidence, at) if a.state == "firing"]
    assert seen["healthy"] == []
    assert "drift" in seen["degraded"]
    assert key != "NB" or "sudden_drop" in seen["degraded"]


@pytest.fixture
async def agent() -> Any:
    """The bad agent, served."""
    served = DemoAgent(classifier=TRAINED["NB"], names=list(UNSEEN[0][0]))
    await served.start()
    async with aiohttp.ClientSession(served.endpoint) as session:
        yield served, session
    await served.stop()


async def test_the_agent_answers_with_its_models_own_probability(agent: Any) -> None:
    """`/analyze` gives what the classifier gives, for a payload with `data` and for a bare one."""
    _, session = agent
    features, _ = UNSEEN[5]
    phishing, confidence = TRAINED["NB"].answer(features)
    for body in ({"task": "?", "data": features}, features):
        async with session.post("/analyze", json=body) as answer:
            assert await answer.json() == {
                "value": {"phishing": phishing},
                "confidence": confidence,
                "agentId": "naive-bayes",
            }
    async with session.get("/capabilities") as answer:
        assert (await answer.json())["capabilities"] == ["phishing-detection"]


@pytest.mark.parametrize("body", [b"no json", b"[]", b"{}", b'{"data": 5}', b'{"data": {"https": "1"}}'])
async def test_what_is_no_site_is_the_callers_fault(agent: Any, body: bytes) -> None:
    """A 4xx with a reason: it must not count against the agent."""
    _, session = agent
    async with session.post("/analyze", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]


async def test_a_failing_agent_answers_500_and_hangs_up_by_turns_until_repaired(agent: Any) -> None:
    """And its health says so; an unknown condition is refused."""
    _, session = agent
    features, _ = UNSEEN[5]
    async with session.post("/condition", json={"condition": "failing"}) as answer:
        assert answer.status == 200
    async with session.post("/analyze", json=features) as answer:
        assert answer.status == 500
    with pytest.raises(aiohttp.ClientError):
        await session.post("/analyze", json=features)
    async with session.get("/health") as answer:
        assert answer.status == 503
    async with session.post("/condition", json={"condition": "tired"}) as answer:
        assert answer.status == 400
    await session.post("/condition", json={"condition": "healthy"})
    async with session.post("/analyze", json=features) as answer:
        assert answer.status == 200


def test_tasks_are_valid_keep_the_label_at_home_and_have_ids_of_their_own() -> None:
    """What any client would send: plain JSON that the schema accepts."""
    sent = list(traffic.tasks("t", UNSEEN[:5], ["a", "b"], range(2), 1000))
    assert len({task["id"] for task in sent}) == len(sent) == 20
    for task in sent:
        read = decode(Task, json.dumps(task).encode())
        row = board.row_of(read.id)
        assert row is not None
        assert read.payload["data"] == UNSEEN[row][0]
        assert "is_phishing" not in json.dumps(task)


def result(name: str, phishing: bool, confidence: float) -> dict[str, Any]:
    """A successful result record."""
    return {"taskId": name, "status": "success", "result": {"phishing": phishing}, "confidence": confidence}


def test_the_board_counts_each_task_once_and_knows_right_from_wrong() -> None:
    """A second result of a task is a duplicate and changes no figure; foreign tasks are not ours."""
    seen = Board([True, False], ["a"])
    seen.take("results", result(task_id("t", 0, 0, "a"), True, 0.9))
    seen.take("results", result(task_id("t", 0, 1, "a"), True, 0.7))
    seen.take("results", result(task_id("t", 0, 1, "a"), False, 0.1))
    seen.take("results", result("somebody-elses", True, 0.1))
    failure = {"taskId": task_id("t", 1, 0, "a"), "status": "failure", "error": {"code": "http_5xx"}}
    seen.take("results", failure)
    line = seen.agents["a"]
    assert (seen.results, seen.duplicates, line.answered, line.failed) == (3, 1, 2, 1)
    assert line.accuracy == 0.5
    assert line.confidence == pytest.approx(0.8)
    assert line.errors == {"http_5xx": 1}


def test_the_board_adds_up_the_newest_state_of_each_minute() -> None:
    """Updates replace each other, minutes add up, hours are left aside."""
    seen = Board([], ["a"])
    window = {"agentId": "a", "taskType": "agent", "interval": "minute", "windowStart": "m1", "p50ExecutionTime": 2.0}
    seen.take("aggregates", window | {"count": 3})
    seen.take("aggregates", window | {"count": 7})
    seen.take("aggregates", window | {"count": 5})
    seen.take("aggregates", window | {"count": 4, "windowStart": "m2", "p50ExecutionTime": 3.0})
    seen.take("aggregates", window | {"count": 11, "interval": "hour"})
    assert seen.counted == 11
    assert seen.agents["a"].p50_ms == 3.0


def test_the_board_tells_moments_and_follows_the_circuit() -> None:
    """Circuit and anomaly events become moments; task events are only counted."""
    seen = Board([], ["a"])
    event = {"timestamp": "2026-11-22T13:37:00.123Z"}
    assert seen.take("events", event | {"type": "task:started", "data": {"taskId": "t"}}) is None
    opened = seen.take("events", event | {"type": "circuit:open", "data": {"agentId": "a", "failures": 5}})
    assert opened is not None
    assert "5 failures" in opened.text
    assert seen.agents["a"].circuit == "open"
    assert seen.events["task:started"] == 1


def test_what_did_not_happen_is_told() -> None:
    """Missing results, no anomaly, no open circuit and windows that do not add up each have a sentence."""
    demo = Demo(Stage(Settings(), True), Console(file=io.StringIO()), Script(rows=3, rounds=1))
    demo.board.take("data-points", {"agentId": BAD_AGENT})
    missing = demo.check()
    assert [text for text in missing if "9 of 9 tasks have no result" in text]
    assert [text for text in missing if "no anomaly" in text]
    assert [text for text in missing if "did not open" in text]
    assert [text for text in missing if "windows hold 0 data points, the topic 1" in text]


def test_the_log_without_a_terminal_has_no_escapes() -> None:
    """Pipes and CI get plain text: moments and progress lines."""
    out = io.StringIO()
    seen = Board([], ["a"])
    with view.View(Console(file=out, width=110), seen, 10) as shown:
        shown.head()
        shown.tell(BoardEvent(0, "circuit:open", "a", "5 failures"))
        shown.tick(every_s=0)
    assert "* circuit:open  a  5 failures" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_children_get_nothing_of_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PARALLAX_*` stays behind, the rest goes on."""
    monkeypatch.setenv("PARALLAX_TOPIC_PREFIX", "mine.")
    monkeypatch.setenv("OTHER", "1")
    kept = clean_environment({"PARALLAX_ROLES": "stats"})
    assert "PARALLAX_TOPIC_PREFIX" not in kept
    assert (kept["OTHER"], kept["PARALLAX_ROLES"]) == ("1", "stats")


def child(code: str, directory: Path) -> Child:
    """A small Python process."""
    return Child(name="it", command=[sys.executable, "-c", code], directory=directory, environment=clean_environment())


async def test_a_child_that_ends_says_its_last_words(tmp_path: Path) -> None:
    """The error names it, its exit code and the last line it printed."""
    broken = child("import sys; sys.exit('no luck today')", tmp_path)
    with pytest.raises(ChildFailed, match="it ended with code 1; its last output: no luck today"):
        await broken.start(lambda line: line, 20)
    await broken.stop()


async def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    """In bounded time; and one that does not listen to SIGTERM is killed."""
    stubborn = child(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hm', flush=True); time.sleep(60)",
        tmp_path,
    )
    with pytest.raises(ChildFailed, match=r"not ready within 1 s"):
        await stubborn.start(lambda line: "yes" if "ready" in line else None, 1)
    await stubborn.stop(timeout_s=0.2)
    with pytest.raises(ChildFailed, match="code -9"):
        await stubborn.ended()


def test_ready_lines_are_understood_and_others_passed_over() -> None:
    """The worker's JSON line among its log lines, the agent's endpoint."""
    assert stage.web_address_in('{"web": "http://127.0.0.1:1", "roles": []}') == "http://127.0.0.1:1"
    assert stage.web_address_in("2026 [warning] something") is None
    assert stage.web_address_in('{"event": "starting"}') is None
    assert (
        stage.endpoint_in("agent a ready  endpoint=http://127.0.0.1:2  trained_on=400_rows\n") == "http://127.0.0.1:2"
    )


def test_an_unknown_model_is_a_usage_error() -> None:
    """argparse's exit code 2."""
    with pytest.raises(SystemExit) as ended:
        agents.main(["--model", "XX"])
    assert ended.value.code == 2


def test_hints_name_the_program_as_the_user_can_call_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an activated environment by its name; else by its path, as short as it is from here."""
    programs = tmp_path / "env" / "bin"
    programs.mkdir(parents=True)
    (programs / "parallax").write_text("#!/bin/sh\n")
    (programs / "parallax").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs))
    assert program() == "parallax"
    monkeypatch.setenv("PATH", "/bin")
    assert program() == str(programs / "parallax")
    monkeypatch.chdir(tmp_path)
    assert program() == "env/bin/parallax"


async def test_sigterm_ends_dev_also_while_a_kafka_client_swallows_the_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that is just starting."""
    begun, ended = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def subscribed(*_: Any, **__: Any) -> AsyncIterator[Any]:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        yield lambda: asyncio.sleep(0.01, [])
        ended.set()

    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    scene = SimpleNamespace(settings=Settings(), own_broker=True, agents=[], web="", watch=forever, turn=forever)
    monkeypatch.setattr(dev, "stage", lambda *_, **__: contextlib.nullcontext(scene))
    monkeypatch.setattr(dev.traffic, "subscribed", subscribed)
    monkeypatch.setattr(dev.traffic, "send", forever)
    running = asyncio.create_task(dev.run_until_signal(Settings(), None, Console(file=io.StringIO())))
    await begun.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait([running], timeout=10)  # a cancel by `wait_for` would end it
    assert running.done()
    assert await running == 0
