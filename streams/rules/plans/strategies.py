"""When a level of a plan is over, and how: one function for each strategy of a parallel plan, and for each other kind.
Pure.

In: the graph and the step that has just ended. Out: the verdict, or None while the plan goes on. A strategy's name is in
`schemas/messages/plans.py`.
"""

from __future__ import annotations

from streams.rules.plans.blueprint import Blueprint
from streams.rules.plans.step_graph import SKIPPED, PlanStrategy, PlanVerdict, StepGraph


def strategy_of(plan: Blueprint) -> PlanStrategy:
    """By the plan's strategy; by its kind if it has none."""
    return STRATEGIES[plan.strategy or plan.kind]


def _all(graph: StepGraph, index: int) -> PlanVerdict | None:
    if graph.failed(index):
        return PlanVerdict("failure", graph.why(index))
    return None if graph.left else PlanVerdict("success", confidence="mean")


def _race(graph: StepGraph, index: int) -> PlanVerdict | None:
    if not graph.failed(index):
        return _won(index)
    return None if graph.left else PlanVerdict("failure", graph.every_reason())


def _all_settled(graph: StepGraph, _index: int) -> PlanVerdict | None:
    return None if graph.left else PlanVerdict("success", confidence="mean")


def _weighted(graph: StepGraph, index: int) -> PlanVerdict | None:
    if not graph.failed(index) and graph.confidence(index) >= graph.blueprint.threshold:
        return _won(index)
    if graph.left:
        return None
    good = graph.successes()
    return _won(graph.surest(good)) if good else PlanVerdict("failure", graph.every_reason())


def _sequential(graph: StepGraph, index: int) -> PlanVerdict | None:
    if graph.failed(index) and not graph.blueprint.continue_on_error:
        return PlanVerdict("failure", graph.why(index))
    if graph.left:
        return None
    good = graph.successes()
    return PlanVerdict("success", winner=good[-1]) if good else PlanVerdict("failure", graph.every_reason())


def _dag(graph: StepGraph, _index: int) -> PlanVerdict | None:
    if graph.left:
        return None
    if not graph.blueprint.continue_on_error:
        bad = [n for n, end in enumerate(graph.ends) if graph.failed(n) and end is not SKIPPED]
        if bad:
            return PlanVerdict("failure", graph.why(bad[0]))
    good = graph.successes()
    if not good:
        return PlanVerdict("failure", graph.every_reason())
    last = [n for n, others in enumerate(graph.blueprint.dependents) if not others]
    return PlanVerdict("success", winner=last[0] if len(last) == 1 and last[0] in good else None)


def _won(index: int) -> PlanVerdict:
    return PlanVerdict("success", winner=index, confidence="winner")


STRATEGIES = {
    "all": PlanStrategy(_all),
    "race": PlanStrategy(_race),
    "allSettled": PlanStrategy(_all_settled),
    "weighted": PlanStrategy(_weighted, by_priority=True),
    "sequential": PlanStrategy(_sequential),
    "dag": PlanStrategy(_dag),
}
