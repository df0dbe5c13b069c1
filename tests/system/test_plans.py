"""Plans on real Kafka: every strategy with every outcome, also when the worker is killed in the middle; large plans; races."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import decode
from schemas.messages import PlanResult
from schemas.times import parse_time
from tests.support.fleet import Fleet
from tests.support.kafka import KafkaCluster
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
from tests.support.rig import Process, Tap, apply_topics, instant_agent, produce, register, start_worker, stopping
from tests.support.task_cases import answers, asks, cancel_task, endings, patterns_file, send_tasks
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
OPTIONS = ("--roles", "dispatch,plans", "--instance-id", "w1", "--session-timeout", "6s")
WIDE = {"maxRequests": 10_000_000, "windowMs": 60_000, "maxConcurrency": 200}


def under_way(fleet: Fleet, *agents: str, timeout_s: float = 60.0) -> None:
    """Wait until plans are in their middle: slow steps are being called, others have ended."""
    wait_until(
        lambda: any(not call.ended for name in agents or ("late", "bad") for call in fleet.calls(name)),
        timeout_s,
        lambda: "no plan came to its middle",
    )


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "killed in the middle"])
def test_every_strategy_ends_as_it_must(kafka: KafkaCluster, prefix: str, tmp_path: Path, killed: bool) -> None:
    """The whole matrix at once: exactly one result each, exactly as expected, whatever happened to the worker."""
    broker, cases = kafka.bootstrap_servers, all_cases()
    apply_topics(broker, prefix)
    env = {"PARALLAX_PLANS__TEMPLATES": str(templates_file(tmp_path))}
    names = {case.id for case in cases} | {plan["id"] for plan, _, _ in REFUSED_PLANS}
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        worker = start_worker(broker, prefix, *OPTIONS, env=env)
        tap, results = Tap(broker, f"{prefix}plan-results"), Tap(broker, f"{prefix}results")
        send_plans(broker, prefix, [case.plan for case in cases], keyed=not killed)
        send_plans(broker, prefix, [plan for plan, _, _ in REFUSED_PLANS])
        if killed:
            under_way(fleet)
            worker.kill()
            worker = start_worker(broker, prefix, *OPTIONS, env=env)
        with stopping(worker):
            hanging(fleet, cases)
            cancel_plans(broker, prefix, [case.id for case in cases if case.cancel])
            found = settled(tap, names, quiet_s=3)
            steps = [json.loads(message.value())["taskId"] for message in results.until(10_000, 3)]
        tap.close()
        results.close()
        cut = [call.key for name in ("late", "bad", "hang") for call in fleet.calls(name) if call.ended == "closed"]
    assert {name: len(given) for name, given in found.items()} == dict.fromkeys(names, 1)
    for given in found.values():
        decode(PlanResult, json.dumps(given[0]).encode())
    assert unlike(found, cases) == ""
    assert len(steps) == len(set(steps)), "a step has two results"
    repeated = {key for name in ("late", "bad", "hang") for key in cut if fleet.agents[name].keys[key] > 1}
    assert bool(repeated) == killed, "the kill was not felt" if killed else "calls were made twice"


def test_a_plan_sent_again_is_not_run_again_also_after_a_kill(kafka: KafkaCluster, prefix: str) -> None:
    """Its steps neither: the agent sees each once."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    plans = [{"id": f"p{n}", "tasks": [step("a", "good", say=n), step("b", "good", say=n)]} for n in range(50)]
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        worker = start_worker(broker, prefix, *OPTIONS)
        tap = Tap(broker, f"{prefix}plan-results")
        send_plans(broker, prefix, [plan for plan in plans for _ in range(2)])
        first = settled(tap, {plan["id"] for plan in plans})
        worker.kill()
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            send_plans(broker, prefix, plans)
            send_plans(broker, prefix, [plans[0] | {"id": "last"}])
            second = settled(tap, {"last"}, quiet_s=2)
        tap.close()
        assert {len(given) for given in first.values()} == {1}
        assert second.keys() == {"last"}
        assert set(fleet.agents["good"].keys.values()) == {1}
        assert len(fleet.agents["good"].keys) == 102


def test_losers_of_a_race_are_cut_off_at_their_agent(kafka: KafkaCluster, prefix: str) -> None:
    """Those that are being called soon after the winner's answer; those in the agent's queue are never called."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        narrow = {"id": "hang", "endpoint": fleet.agents["hang"].endpoint, "limits": WIDE | {"maxConcurrency": 2}}
        register(broker, prefix, narrow)
        with stopping(start_worker(broker, prefix, *OPTIONS)):
            tap = Tap(broker, f"{prefix}plan-results")
            losers = [step(f"h{n}", "hang") for n in range(5)]
            send_plans(broker, prefix, [{"id": "r", "strategy": "race", "tasks": [*losers, step("a", "late")]}])
            [result] = settled(tap, {"r"})["r"]
            time.sleep(2)
            tap.close()
        calls = fleet.calls("hang")
    assert (result["status"], result["result"]) == ("success", "a")
    assert [call.ended for call in calls] == ["closed", "closed"]
    ended_s = parse_time(result["timestamp"]) / 1000
    slowest = max(call.ended_at - ended_s for call in calls)
    print(f"losers were cut off {slowest * 1000:.0f} ms after the plan's end")
    assert slowest < 2


def test_tasks_of_local_templates_are_answered_once_whichever_worker_is_killed(
    kafka: KafkaCluster, prefix: str, tmp_path: Path
) -> None:
    """Each id comes twice; the worker that hands over is killed, then the one that runs the templates, both in the middle."""
    broker = kafka.bootstrap_servers
    apply_topics(broker, prefix)
    env = {"PARALLAX_PLANS__TEMPLATES": str(patterns_file(tmp_path))}

    def worker(role: str) -> Process:
        options = ("--roles", role, "--instance-id", role, "--session-timeout", "6s")
        return start_worker(broker, prefix, *options, env=env)

    slow = [asks(f"s{n}", "slowly", {"n": n}, timeout=120_000) for n in range(40)]
    quick = [asks(f"q{n}", "twice", {"word": n}, timeout=120_000) for n in range(400)]
    names = {task["id"] for task in (*slow, *quick)} | {"unwanted", "late"}
    with agents() as fleet:
        register_all(broker, prefix, fleet)
        dispatch, plans = worker("dispatch"), worker("plans")
        tap = Tap(broker, f"{prefix}results")
        send_tasks(broker, prefix, [asks("unwanted", "stuck", timeout=120_000), asks("late", "stuck", timeout=15_000)])
        send_tasks(broker, prefix, quick[:200] * 2)
        seen = tap.until(20, 30)
        send_tasks(broker, prefix, slow[:20] * 2)
        under_way(fleet, "late")
        dispatch.kill()
        seen += tap.read(1)
        left = [names - answers(seen).keys()]
        dispatch = worker("dispatch")
        send_tasks(broker, prefix, quick[200:] * 2)
        seen += tap.until(20, 30)
        send_tasks(broker, prefix, slow[20:] * 2)
        under_way(fleet, "late")
        plans.kill()
        seen += tap.read(1)
        left.append(names - answers(seen).keys())
        cancel_task(broker, prefix, "unwanted")
        plans = worker("plans")
        with stopping(dispatch), stopping(plans):
            end = time.monotonic() + 90
            while answers(seen).keys() != names:
                assert time.monotonic() < end, f"no result: {sorted(names - answers(seen).keys())[:8]}"
                seen += tap.read(0.5)
            seen += tap.until(100_000, 3)
            ended, points = endings(broker, prefix, 2), Tap(broker, f"{prefix}data-points")
            judged = [json.loads(m.value()) for m in points.until(100_000, 3)]
        points.close()
        tap.close()
    found = answers(seen)
    assert {name: len(given) for name, given in found.items()} == dict.fromkeys(names, 1)
    assert {name: len(given) for name, given in ended.items()} == dict.fromkeys(names, 1)
    told = [json.loads(message.value())["taskId"] for message in seen]
    assert len(told) == len(set(told)), "a step has two results"
    for task in slow:
        assert (found[task["id"]][0]["status"], found[task["id"]][0]["result"]) == ("success", task["payload"]["n"])
    assert {found[task["id"]][0]["status"] for task in quick} == {"success"}
    assert (found["unwanted"][0]["status"], found["late"][0]["status"]) == ("cancelled", "timeout")
    counted = [point["taskId"] for point in judged if point["agentId"].startswith("pattern:")]
    assert sorted(counted) == sorted(names - {"unwanted"})
    assert min(map(len, left)) > 2, "a kill came when nothing was under way"
    assert max(fleet.agents["late"].keys.values()) > 1, "the kill was not felt"


def test_ten_thousand_tasks_spread_over_two_workers(kafka: KafkaCluster, prefix: str) -> None:
    """One plan; every step has its result in the plan's, in its order; both workers called agents."""
    broker, count = kafka.bootstrap_servers, 10_000
    apply_topics(broker, prefix)
    tasks = [
        {"id": f"t{n}", "type": "agent", "target": f"a{n % 16}", "payload": n, "metadata": {"cache": False}}
        for n in range(count)
    ]
    plan = {"id": "large", "tasks": tasks, "maxConcurrency": 1000, "timeout": 200_000}
    with ExitStack() as stack:
        _, endpoint = stack.enter_context(instant_agent())
        register(broker, prefix, *({"id": f"a{n}", "endpoint": endpoint, "limits": WIDE} for n in range(16)))
        workers = [_ready(broker, prefix, name) for name in ("w1", "w2")]
        for worker, _ in workers:
            stack.enter_context(stopping(worker))
        time.sleep(5)  # the second one's joining moves partitions
        tap = Tap(broker, f"{prefix}plan-results")
        stack.callback(tap.close)
        produce(broker, f"{prefix}plans", [(b"large", json.dumps(plan).encode())], **{"message.max.bytes": 9_000_000})
        [result] = settled(tap, {"large"}, timeout_s=180)["large"]
        done = [_finished(web) for _, web in workers]
    assert (result["status"], len(result["results"])) == ("success", count)
    assert [found["taskId"] for found in result["results"]] == [task["id"] for task in tasks]
    assert {found["status"] for found in result["results"]} == {"success"}
    assert sum(done) == count
    assert min(done) > count / 10, done
    print(f"{count} steps in {result['executionTime'] / 1000:.1f} s, by worker {done}")


def _ready(broker: str, prefix: str, name: str) -> tuple[Process, str]:
    options = ("--roles", "dispatch,plans", "--instance-id", name, "--session-timeout", "6s", "-o", "json")
    worker = start_worker(broker, prefix, *options, wait=False)
    found: dict[str, Any] = json.loads(worker.line(90))
    return worker, found["web"]


def _finished(web: str) -> float:
    with urllib.request.urlopen(f"{web}/metrics") as page:  # noqa: S310 - the worker's own address
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('parallax_tasks_total{status="success"}'))
