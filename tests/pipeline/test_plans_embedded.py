"""Plans on the embedded broker: every strategy with every outcome, patterns, consensus, refused plans; exact results."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.codec import decode
from schemas.messages import PlanResult
from schemas.partitioning import owner_partition
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.fleet import Fleet
from tests.support.plan_cases import REFUSED_PLANS, all_cases, step
from tests.support.plan_rig import (
    agents,
    cancel_plans,
    hanging,
    register_all,
    send_plans,
    settled,
    templates_file,
    unlike,
)
from tests.support.rig import Tap, parallax, produce, register, start_worker, stopping
from tests.support.task_cases import (
    CASES,
    UNKNOWN,
    answers,
    asks,
    cancel_task,
    endings,
    patterns_file,
    send_tasks,
    untimed,
    wanted,
)
from tests.support.wait import wait_until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]


async def test_every_strategy_ends_as_it_must_whatever_its_steps_do(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """The whole matrix at once; half of the plans lie in a partition that is not their owner's."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    await asyncio.to_thread(_matrix, embedded.bootstrap_servers, prefix, tmp_path)


def _matrix(broker: str, prefix: str, directory: Path) -> None:
    cases = all_cases()
    env = {"PARALLAX_PLANS__TEMPLATES": str(templates_file(directory))}
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        options = ("--roles", "dispatch,plans", "--instance-id", "w1", "--session-timeout", "6s")
        with stopping(start_worker(broker, prefix, *options, env=env)):
            tap = Tap(broker, f"{prefix}plan-results")
            send_plans(broker, prefix, [case.plan for case in cases[::2]])
            send_plans(broker, prefix, [case.plan for case in cases[1::2]], keyed=False)
            send_plans(broker, prefix, [plan for plan, _, _ in REFUSED_PLANS])
            produce(broker, f"{prefix}plans", [(None, b"{no json"), (None, b'{"tasks":[]}')])
            hanging(fleet, cases)
            cancel_plans(broker, prefix, [case.id for case in cases if case.cancel])
            names = {case.id for case in cases} | {plan["id"] for plan, _, _ in REFUSED_PLANS}
            found = settled(tap, names)
            tap.close()
            letters = Tap(broker, f"dlq.{prefix}plans")
            assert len(letters.until(2, 20)) == 2
            letters.close()
    assert found.keys() == names
    assert {name: len(results) for name, results in found.items() if len(results) != 1} == {}
    for case in cases:
        decode(PlanResult, json.dumps(found[case.id][0]).encode())
    assert unlike(found, cases) == ""
    for plan, kind, reason in REFUSED_PLANS:
        _assert_refused(found[plan["id"]][0], kind, reason)
    running = [call.key for call in fleet.calls("hang") if not call.ended]
    assert running == [], "losers still run at their agent"


def _assert_refused(result: dict[str, Any], kind: str, reason: str) -> None:
    assert (result["kind"], result["status"], result["results"]) == (kind, "failure", [])
    assert result["error"]["code"] == "invalid_plan"
    assert result["error"]["message"].startswith(reason)


async def test_submit_plan_cancel_and_the_page_of_a_plan(embedded: EmbeddedBroker, prefix: str) -> None:
    """A plan through the command line: live progress, its result, its steps drawn, a cancel, the worker's page."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    await asyncio.to_thread(_commands, embedded.bootstrap_servers, prefix)


def _commands(broker: str, prefix: str) -> None:
    chain = {"id": "chain", "kind": "sequential", "tasks": [step(name, "late") for name in ("a", "b", "c")]}
    stuck = {"id": "stuck", "tasks": [step("a", "good"), step("h", "hang", dependencies=["a"])]}
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        worker = start_worker(broker, prefix, "--roles", "dispatch,plans", "-o", "json", wait=False)
        web = json.loads(worker.line(90))["web"]
        with stopping(worker):
            code, out, err = _parallax(broker, prefix, "submit", "--plan", "--wait", "-", given=chain)
            assert (code, json.loads(out)["planId"], json.loads(out)["result"]) == (0, "chain", "c")
            assert "chain: 1 of 3 steps ended" in err
            assert "chain: 2 of 3 steps ended" in err
            code, again, err = _parallax(broker, prefix, "submit", "--plan", "--wait", "-", given=chain)
            assert (code, json.loads(again), "answered before" in err) == (0, json.loads(out), True), err
            code, out, _ = _parallax(broker, prefix, "plan", "chain")
            assert (code, out.count("✓"), "success  3 of 3 steps ended" in out) == (0, 3, True)
            assert _parallax(broker, prefix, "submit", "--plan", "-", given=stuck)[0] == 0
            code, out, err = _parallax(broker, prefix, "submit", "--plan", "-", given=stuck | {"kind": "sequential"})
            assert (code, "line 1: tasks.1.metadata.dependencies: only a dag" in err) == (2, True)
            wait_until(lambda: fleet.calls("hang"))
            code, out, _ = _parallax(broker, prefix, "plan", "stuck", "-o", "json")
            assert [s["status"] for s in json.loads(out)["steps"]] == ["success", "running"]
            shown = _page(f"{web}/api/v1/plans/stuck")
            assert (shown["status"], shown["done"], shown["steps"][1]["status"]) == ("running", 1, "running")
            tap = Tap(broker, f"{prefix}plan-results")
            assert _parallax(broker, prefix, "cancel", "stuck", "--reason", "enough")[0] == 0
            assert settled(tap, {"stuck"})["stuck"][0]["status"] == "cancelled"
            tap.close()
            assert _parallax(broker, prefix, "plan", "stuck")[1].splitlines()[1].startswith("cancelled: the plan was")
            assert _parallax(broker, prefix, "plan", "nobody")[0] == 4
            assert _page(f"{web}/api/v1/plans/stuck")["status"] == "cancelled"
            with pytest.raises(urllib.error.HTTPError, match="404"):
                _page(f"{web}/api/v1/plans/nobody")


async def test_steps_of_any_type_hand_on_what_they_found(embedded: EmbeddedBroker, prefix: str) -> None:
    """A function's answer to an agent chosen by capability, and both to a function that fails."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    await asyncio.to_thread(_mixed, embedded.bootstrap_servers, prefix)


def _mixed(broker: str, prefix: str) -> None:
    tasks = [
        {"id": "f", "type": "function", "target": "double", "payload": {"n": 21}},
        {"id": "c", "type": "agent", "capabilities": ["relaying"], "payload": {}},
        {"id": "x", "type": "function", "target": "nobody knows", "payload": {}},
    ]
    with agents() as fleet:
        relay = {"id": "relay", "endpoint": fleet.agents["relay"].endpoint, "capabilities": ["relaying"]}
        register(broker, prefix, relay)
        env = {"PARALLAX_FUNCTIONS__MODULES": "tests.support.some_functions"}
        with stopping(start_worker(broker, prefix, "--roles", "dispatch,plans", env=env)):
            tap = Tap(broker, f"{prefix}plan-results")
            send_plans(broker, prefix, [{"id": "mixed", "kind": "sequential", "tasks": tasks}])
            [result] = settled(tap, {"mixed"})["mixed"]
            tap.close()
    assert [step.get("result") for step in result["results"]] == [42, {"previous": 42, "results": {"f": 42}}, None]
    assert [step["agentId"] for step in result["results"][:2]] == ["function:double", "relay"]
    assert (result["status"], result["error"]["code"]) == ("failure", "unknown_function")


async def test_any_worker_shows_any_plan_and_none_is_denied_while_its_owner_is_gone(
    embedded: EmbeddedBroker, prefix: str
) -> None:
    """Two workers with two partitions each; one is killed, and the other takes its plans over."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    await asyncio.to_thread(_two_workers, embedded.bootstrap_servers, prefix)


def _two_workers(broker: str, prefix: str) -> None:
    names = ["s0", "s1", "s4", "s5", "s8", "p1"]  # at least one in each of four partitions
    plans = [{"id": name, "tasks": [step("h", "hang")], "timeout": 120_000} for name in names]
    options = ("--roles", "dispatch,plans", "--session-timeout", "6s", "-o", "json")
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        first = start_worker(broker, prefix, *options, wait=False)
        urls = [json.loads(first.line(90))["web"]]
        with stopping(first):
            second = start_worker(broker, prefix, *options, wait=False)
            try:
                urls.append(json.loads(second.line(90))["web"])
                wait_until(lambda: [len(_partitions(url)) for url in urls] == [2, 2], 60)
                send_plans(broker, prefix, plans)
                for url in urls:
                    wait_until(lambda url=url: [_status(url, name) for name in names] == [200] * len(names), 60)
                    assert {_page(f"{url}/api/v1/plans/{name}")["status"] for name in names} == {"running"}
                    assert _status(url, "nobody") == 404
                theirs = [name for name in names if owner_partition(name, 4) in _partitions(urls[1])]
                assert 0 < len(theirs) < len(names)
            finally:
                second.kill()
            seen = {_status(urls[0], name) for name in theirs}
            assert seen == {503}, "the owner is gone: nobody knows"

            def all_found() -> bool:
                now = {_status(urls[0], name) for name in theirs}
                seen.update(now)
                return now == {200}

            wait_until(all_found, 60, lambda: seen)
            assert seen <= {200, 503}, "a plan under way was denied"
            assert _status(urls[0], "nobody") == 404


async def test_steps_sent_after_a_kill_belong_to_the_plans_trace(embedded: EmbeddedBroker, prefix: str) -> None:
    """A coordinator sends the first step and is killed; the next one sends the second."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    await asyncio.to_thread(_traced, embedded.bootstrap_servers, prefix)


def _traced(broker: str, prefix: str) -> None:
    trace = b"00-" + b"ab" * 16 + b"-" + b"12" * 8 + b"-01"
    chain = {"id": "p", "kind": "sequential", "timeout": 120_000, "tasks": [step("a", "good"), step("b", "good")]}
    ended = {"taskId": "p#0", "planId": "p", "status": "success", "result": 1, "executionTime": 1, "retries": 0,
             "cached": False, "timestamp": "2027-01-15T08:00:00.000Z", "metadata": {}}  # fmt: skip
    tap = Tap(broker, f"{prefix}tasks")
    options = ("--roles", "plans", "--session-timeout", "6s")
    first = start_worker(broker, prefix, *options)
    try:
        producer = Producer({"bootstrap.servers": broker})
        producer.produce(f"{prefix}plans", json.dumps(chain), b"p", headers=[("traceparent", trace)])
        assert producer.flush(20) == 0
        [one] = tap.until(1, 30)
    finally:
        first.kill()
    with stopping(start_worker(broker, prefix, *options)):
        produce(broker, f"{prefix}results", [(b"p", json.dumps(ended).encode())], partitioner="murmur2_random")
        later = tap.until(1, 60, quiet_s=0.5)
    tap.close()
    told = {(json.loads(sent.value())["id"], dict(sent.headers())["traceparent"]) for sent in [one, *later]}
    assert sorted(name for name, _ in told) == ["p#0", "p#1"], "a step that is sent again is the same record"
    assert {parent[:36] + parent[52:] for _, parent in told} == {b"00-" + b"ab" * 16 + b"--01"}
    assert len({parent for _, parent in told}) == 2


def _partitions(url: str) -> set[int]:
    return {row["partition"] for row in _page(f"{url}/api/v1/partitions") if row["topic"].endswith("plans")}


def _status(url: str, plan_id: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/plans/{plan_id}") as page:  # noqa: S310 - the worker's own address
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


def _page(url: str) -> Any:
    with urllib.request.urlopen(url) as page:  # noqa: S310 - the worker's own address
        return json.load(page)


def _parallax(broker: str, prefix: str, *words: str, given: Any = None) -> tuple[int, str, str]:
    where = ("--bootstrap-servers", broker, "--topic-prefix", prefix)
    stdin = None if given is None else json.dumps(given)
    done = subprocess.run(
        parallax(*words, *where), input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


async def test_a_task_whose_pattern_is_a_local_template_has_one_result(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """Every outcome, each id twice, by two workers with one role each; what nobody ran in time is told to have expired."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 4)
    await asyncio.to_thread(_pattern_tasks, embedded.bootstrap_servers, prefix, tmp_path)


def _pattern_tasks(broker: str, prefix: str, directory: Path) -> None:
    env = {"PARALLAX_PLANS__TEMPLATES": str(patterns_file(directory))}
    cases = [*CASES, UNKNOWN]
    names = {task["id"] for task, _ in cases} | {"waited"}
    with agents() as fleet, ExitStack() as stack:
        register_all(broker, prefix, fleet)
        stack.enter_context(stopping(start_worker(broker, prefix, "--roles", "dispatch", env=env)))
        plans = Tap(broker, f"{prefix}plans")
        send_tasks(broker, prefix, [asks("waited", "twice", timeout=300)])
        assert len(plans.until(1, 20, quiet_s=0.5)) == 1
        plans.close()
        stack.enter_context(stopping(start_worker(broker, prefix, "--roles", "plans", env=env)))
        results, plan_results = Tap(broker, f"{prefix}results"), Tap(broker, f"{prefix}plan-results")
        send_tasks(broker, prefix, [*(task for task, _ in CASES for _ in range(2)), UNKNOWN[0]])
        _called(fleet, "task:unwanted#0.0")
        cancel_task(broker, prefix, "unwanted")
        found: dict[str, list[dict[str, Any]]] = {}
        end = time.monotonic() + 60
        while found.keys() != names or time.monotonic() < end:
            for name, given in answers(results.read(0.5)).items():
                found.setdefault(name, []).extend(given)
            if found.keys() == names:
                end = min(end, time.monotonic() + 1)
            assert found.keys() == names or time.monotonic() < end, f"no result: {sorted(names - found.keys())}"
        assert plan_results.read(1) == []
        results.close()
        plan_results.close()
        ended = endings(broker, prefix)
        code, out, _ = _parallax(broker, prefix, "plan", "task:good")
        assert (code, out.splitlines()[0].split()[:3]) == (0, ["task:good", "sequential", "success"])
        assert [line.split()[1] for line in out.splitlines()[2:]] == ["good", "└", "└"]
    assert {name: len(given) for name, given in found.items()} == dict.fromkeys(names, 1)
    assert {name: len(given) for name, given in ended.items()} == dict.fromkeys(names, 1)
    assert (found["waited"][0]["status"], found["waited"][0]["error"]["code"]) == ("timeout", "expired")
    assert ended["waited"] == ["task:expired"]
    for task, told in cases:
        assert untimed(found[task["id"]][0]) == wanted(task, told)
    assert set(fleet.agents["relay"].keys.values()) == {1}, "a step was called twice"
    assert [call.key for call in fleet.calls("hang") if not call.ended] == [], "somebody still works for nothing"


def _called(fleet: Fleet, key: str, timeout_s: float = 30.0) -> None:
    wait_until(lambda: any(call.key == key for call in fleet.calls("hang")), timeout_s, lambda: f"never called: {key}")
