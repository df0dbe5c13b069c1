"""Every oracle can fail: a sound run is doctored, and the oracle says so."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from schemas.partitioning import owner_partition
from tests.simulation.agents import Arrival
from tests.simulation.cli import silence
from tests.simulation.options import profile
from tests.simulation.oracles import judge
from tests.simulation.scenario import PREFIX, Scenario
from tests.simulation.traffic import Sent


def _answered(one: Scenario) -> Iterator[str]:
    """Tasks with an answer that no cache gave."""
    for name, rows in one.results.items():
        if name in one.traffic.tasks and rows[0][1]["status"] == "success" and not rows[0][1]["cached"]:
            yield name


def _calls(one: Scenario) -> list[Arrival]:
    return max((agent.arrivals for agent in one.shared.agents.values()), key=len)


def _called(one: Scenario) -> str:
    return max(one.shared.agents.values(), key=lambda agent: len(agent.arrivals)).name


def _twice(one: Scenario) -> None:
    rows = one.results[next(_answered(one))]
    rows.append(rows[0])


def _forgotten(one: Scenario) -> None:
    one.traffic.tasks["ghost"] = Sent(one.traffic.tasks["t0"].body, [1.0])
    one.traffic.plans["ghost"] = Sent({"id": "ghost", "tasks": []}, [1.0])


def _other_question(one: Scenario) -> None:
    one.traffic.tasks[next(_answered(one))].body["payload"]["q"] = -1


def _other_agent(one: Scenario) -> None:
    one.traffic.tasks[next(_answered(one))].body["target"] = "somebody"


def _late(one: Scenario) -> None:
    for name in _answered(one):
        one.traffic.tasks[name].expires_s = -100.0


def _out_of_patience(one: Scenario) -> None:
    for rows in one.results.values():
        rows[0][1].update(status="failure", error={"code": "rate_limited", "message": "no turn"})


def _cancelled(one: Scenario) -> None:
    one.traffic.tasks[next(_answered(one))].cancelled_at = -100.0


def _more_calls(one: Scenario) -> None:
    calls = _calls(one)
    calls += [replace(calls[-1]) for _ in range(2000)]


def _hurry(one: Scenario) -> None:
    call = _calls(one)[-1]
    one.shared.pauses.append((call.begun_at - 1.0, call.node, _called(one), 2.0))
    one.shared.opened.append((call.begun_at - 1.0, call.node, _called(one)))


def _forgetful_successor(one: Scenario) -> None:
    call, agent = _calls(one)[-1], _called(one)
    one.shared.pauses.append((call.begun_at - 1.0, call.node, agent, 2.0))
    one.shared.opened.append((call.begun_at - 1.0, call.node, agent))
    number = owner_partition(agent, one.partitions_at(call.begun_at))
    one.shared.durability["dispatch"].fenced("other", number, call.begun_at - 0.5)
    call.node = "other"


def _deaf_plan(one: Scenario) -> None:
    one.traffic.plans["ghost"] = Sent({"id": "ghost", "tasks": [{}]}, [1.0])
    one.plan_results["ghost"] = [(50.0, {"status": "timeout", "results": [{"taskId": "s0", "status": "cancelled"}]})]
    answer = {"status": "success", "result": {"asked": "ghost/0", "agent": "ag0"}, "agentId": "ag0", "cached": False}
    one.results["ghost#0"] = [(2.0, answer)]


def _stray(one: Scenario) -> None:
    one.shared.strays.append((1.0, "w1", "ag0", "w2"))


def _unread(one: Scenario) -> None:
    one.broker.append((f"{PREFIX}tasks", 0), [(None, b"{}", ())])


def _closed(one: Scenario) -> None:
    for node in one.shared.nodes.values():
        node.worker.engines["dispatch"].processors.pop(0, None)


def _raised(one: Scenario) -> None:
    one.world.errors.append("1.0 w1: boom")


def _disorder(one: Scenario) -> None:
    early, late, *_ = (call for call in _calls(one) if call.task_id in one.traffic.tasks)
    for call in (early, late):
        one.traffic.tasks[call.task_id].ordered = "key", 0
        one.traffic.tasks[call.task_id].body["target"] = _called(one)
        call.node, call.ended_at = "w1", late.begun_at + 2.0
    early.begun_at = late.begun_at + 1.0


def _answers_out_of_order(one: Scenario) -> None:
    for sent in one.traffic.tasks.values():
        sent.ordered = "key", 0
        sent.body["target"] = "ag0"


def _not_permitted(one: Scenario) -> None:
    one.shared.forbidden.append((1.0, "w1", "http:a.wide:80", "http://a.wide/"))


def _step_twice(one: Scenario) -> None:
    answer = {"status": "failure", "error": {"code": "no_agent"}}
    one.results[f"task:{next(_answered(one))}#0"] = [(2.0, answer), (3.0, answer)]


def _sent_as_two_tasks(one: Scenario, answers: Iterable[int]) -> None:
    name = next(_answered(one))
    sent, rows = one.traffic.tasks[name], one.results[name]
    sent.copies.append(copy.deepcopy(sent.body) | {"type": "function", "target": "f"})
    rows[:] = [
        (at, row | {"metadata": {"copy": number}, "status": "failure"}) for at, row in rows for number in answers
    ]


def _second_task_twice(one: Scenario) -> None:
    _sent_as_two_tasks(one, (0, 1, 1))


def _second_task_lost(one: Scenario) -> None:
    _sent_as_two_tasks(one, (0,))


def _answer_of_its_copy(one: Scenario) -> None:
    name = next(_answered(one))
    other = copy.deepcopy(one.traffic.tasks[name].body)
    other["payload"]["q"] = -1
    one.traffic.tasks[name].copies.append(other)
    one.results[name][0][1]["metadata"]["copy"] = 1


def _cached_although_it_changes_something(one: Scenario) -> None:
    name = next(_answered(one))
    body, row = one.traffic.tasks[name].body, one.results[name][0][1]
    body |= {"type": "http", "metadata": {key: 1 for key in body["metadata"] if key != "cache"}}
    row["cached"] = True


CASES: list[tuple[Callable[[Scenario], None], set[str]]] = [
    (_twice, {"doubled task"}),
    (_forgotten, {"lost task", "lost plan"}),
    (_second_task_twice, {"doubled task"}),
    (_second_task_lost, {"lost task"}),
    (_step_twice, {"doubled step"}),
    (_answer_of_its_copy, {"foreign answer"}),
    (_cached_although_it_changes_something, {"unwanted cache"}),
    (_not_permitted, {"forbidden call"}),
    (_other_question, {"foreign answer"}),
    (_other_agent, {"foreign agent"}),
    (_late, {"late result", "call after deadline"}),
    (_out_of_patience, {"failed for waiting"}),
    (_cancelled, {"unheard cancel of a task"}),
    (_more_calls, {"rate limit", "concurrency", "attempts"}),
    (_hurry, {"retry-after", "open circuit"}),
    (_forgetful_successor, {"forgotten pause", "forgotten open circuit"}),
    (_deaf_plan, {"unheard step"}),
    (_stray, {"owner"}),
    (_disorder, {"one at a time", "order of calls"}),
    (_answers_out_of_order, {"order of answers"}),
    (_unread, {"leftover"}),
    (_closed, {"owners"}),
    (_raised, {"error"}),
]


def _judge_all(sender: Any) -> None:
    """In a process of its own: one world, forked for each case; the first finding is that of the sound run."""
    silence()
    one = Scenario(2, profile("quiet", seconds=6.0, time="attempt", cancels=0.0, duplicates=0.0))
    one.run()
    context = multiprocessing.get_context("fork")
    for place in range(-1, len(CASES)):
        child = context.Process(target=_judge, args=(sender, one, place))
        child.start()
        child.join()
    os._exit(0)


def _judge(sender: Any, one: Scenario, place: int) -> None:
    if place >= 0:
        CASES[place][0](one)
    sender.send({violation.oracle for violation in judge(one)})
    os._exit(0)


@pytest.fixture(scope="module")
def findings() -> list[set[str]]:
    """What was found of the sound run, then of each case."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_judge_all, args=(sender,))
    child.start()
    sender.close()
    found: list[set[str]] = []
    while len(found) <= len(CASES):
        assert receiver.poll(100)
        found.append(receiver.recv())
    child.join(5)
    return found


@pytest.mark.parametrize("place", range(len(CASES)), ids=[case.__name__.lstrip("_") for case, _ in CASES])
def test_an_oracle_sees_it(findings: list[set[str]], place: int) -> None:
    """What the sound run does not show."""
    assert CASES[place][1] <= findings[place + 1] - findings[0]
