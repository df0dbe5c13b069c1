"""Every strategy with every outcome: the plans, and the exact `PlanResult` each must have. For any broker.

Agents: `good` answers at once what the payload says, `late` the same after a while, `fail` refuses at once, `bad` after a while,
`hang` never answers. Times and timestamps are the only fields that are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agents_io.fakes.steps import ScriptStep, compute, hang, status

LATE_S = 1.5
OUT_OF_TIME_MS = 10_000
WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 1000}
PATIENT = {"failureThreshold": 10_000}
REFUSED = {"code": "http_4xx", "message": "the agent answered 400: no body", "retryable": False}


def _say(payload: Any) -> Any:
    return {"value": payload["say"], "confidence": payload["sure"]}


def _relay(payload: Any) -> Any:
    return {"value": payload["context"], "confidence": 1}


AGENTS: dict[str, ScriptStep] = {
    "good": compute(_say),
    "late": compute(_say, delay_s=LATE_S),
    "relay": compute(_relay),
    "fail": status(400),
    "bad": status(400, delay_s=LATE_S),
    "hang": hang(),
}


@dataclass(frozen=True)
class Case:
    """A plan; what its steps and it itself must end as; whether it is to be cancelled once its `hang` steps are called."""

    plan: dict[str, Any]
    steps: list[dict[str, Any]]
    rest: dict[str, Any]
    cancel: bool = False

    @property
    def id(self) -> str:
        """The plan's id."""
        return str(self.plan["id"])

    def expected(self) -> dict[str, Any]:
        """The whole result but for times."""
        results = []
        for task, step in zip(self.plan["tasks"], self.steps, strict=True):
            base = {"taskId": task["id"], "planId": self.id, "retries": 0, "cached": False}
            results.append(base | {"metadata": task["metadata"]} | step)
        return {"planId": self.id, "results": results} | self.rest


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    """A `PlanResult` without what depends on the clock; the times must be there."""
    found = dict(result)
    assert found.pop("executionTime") >= 0
    assert found.pop("timestamp")
    found["results"] = [dict(step) for step in found["results"]]
    for step in found["results"]:
        assert step.pop("executionTime") >= 0
        assert step.pop("waitTime", 0) >= 0  # a step that never came to dispatch has none
        assert step.pop("timestamp")
    return found


def step(name: str, agent: str, say: Any = None, sure: float = 0.9, **metadata: Any) -> dict[str, Any]:
    """A task of a plan."""
    payload = {"say": name if say is None else say, "sure": sure}
    return {"id": name, "type": "agent", "target": agent, "payload": payload, "metadata": {"cache": False} | metadata}


def ok(value: Any, sure: float = 0.9, agent: str = "good") -> dict[str, Any]:
    """A step that succeeded."""
    return {"status": "success", "result": value, "confidence": sure, "agentId": agent}


def refused(agent: str = "fail") -> dict[str, Any]:
    """A step whose agent said 400."""
    return {"status": "failure", "error": REFUSED | {"agentId": agent}, "agentId": agent}


def not_done(why: str) -> dict[str, Any]:
    """A step that did not end by itself."""
    return {"status": "cancelled", "error": {"code": "cancelled", "message": why, "retryable": False}}


def _error(code: str, message: str, retryable: bool = False) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "retryable": retryable}}


FAILED_MESSAGE = REFUSED["message"]
LATE_MESSAGE = f"the plan did not end within {OUT_OF_TIME_MS} ms"
CANCEL_REASON = "enough"
CANCEL_MESSAGE = f"the plan was cancelled: {CANCEL_REASON}"
HAD_ANSWER = "stopped: the plan had its answer"


def _why(name: str) -> dict[str, Any]:
    return _error("http_4xx", f"step {name!r} ended as failure: {FAILED_MESSAGE}")


def _every(*names: str) -> dict[str, Any]:
    return _error("http_4xx", "every step failed: " + "; ".join(f"{n}: http_4xx: {FAILED_MESSAGE}" for n in names))


TIMEOUT = {"status": "timeout"} | _error("timeout", LATE_MESSAGE, True)
CANCELLED = {"status": "cancelled"} | _error("cancelled", CANCEL_MESSAGE)


def parallel(strategy: str) -> Iterable[Case]:
    """The four strategies: all good, one fails, all fail, timeout, cancel."""
    head = {"kind": "parallel", "strategy": strategy}

    def plan(outcome: str, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {"id": f"{strategy}-{outcome}", "strategy": strategy, "tasks": list(tasks)} | fields

    a, b = step("a", "good", sure=0.6), step("b", "good", sure=0.7)
    both = [ok("a", 0.6), ok("b", 0.7)]
    good = {
        "all": (both, {"confidence": 0.65}),
        "allSettled": (both, {"confidence": 0.65}),
        "weighted": (both, {"result": "b", "confidence": 0.7}),
    }
    if strategy == "race":
        won = {"status": "success", "result": "a", "confidence": 0.6}
        yield Case(plan("good", a, step("b", "hang")), [ok("a", 0.6), not_done(HAD_ANSWER)], head | won)
        yield Case(
            plan("one", step("x", "fail"), step("b", "late", sure=0.5)),
            [refused(), ok("b", 0.5, "late")],
            head | {"status": "success", "result": "b", "confidence": 0.5},
        )
    else:
        steps, said = good[strategy]
        yield Case(plan("good", a, b), steps, head | {"status": "success"} | said)
    if strategy == "all":
        yield Case(
            plan("one", a, step("x", "bad"), step("c", "hang")),
            [ok("a", 0.6), refused("bad"), not_done(f"stopped: step 'x' ended as failure: {FAILED_MESSAGE}")],
            head | {"status": "failure"} | _why("x"),
        )
        yield Case(
            plan("none", step("x", "fail"), step("y", "hang"), maxConcurrency=1),
            [refused(), not_done(f"not started: step 'x' ended as failure: {FAILED_MESSAGE}")],
            head | {"status": "failure"} | _why("x"),
        )
    elif strategy == "allSettled":
        one = head | {"status": "success", "confidence": 0.6}
        yield Case(plan("one", a, step("x", "fail")), [ok("a", 0.6), refused()], one)
        both_bad = [refused(), refused()]
        yield Case(plan("none", step("x", "fail"), step("y", "fail")), both_bad, head | {"status": "success"})
    else:
        if strategy == "weighted":
            yield Case(
                plan(
                    "one", step("x", "fail", priority=9), a, step("c", "good", sure=0.95, priority=5), maxConcurrency=1
                ),
                [refused(), not_done("not started: the plan had its answer"), ok("c", 0.95)],
                head | {"status": "success", "result": "c", "confidence": 0.95},
            )
        none = plan("none", step("x", "fail"), step("y", "fail"))
        yield Case(none, [refused(), refused()], head | {"status": "failure"} | _every("x", "y"))
    bad = step("a", "fail") if strategy == "race" else step("a", "good", sure=0.6)
    ended = refused() if strategy == "race" else ok("a", 0.6)
    late = [ended, not_done(f"stopped: {LATE_MESSAGE}")]
    yield Case(plan("timeout", bad, step("h", "hang"), timeout=OUT_OF_TIME_MS), late, head | TIMEOUT)
    stopped = [not_done(f"stopped: {CANCEL_MESSAGE}")] * 2
    yield Case(plan("cancel", step("g", "hang"), step("h", "hang")), stopped, head | CANCELLED, cancel=True)


def sequential() -> Iterable[Case]:
    """One after the other."""
    head = {"kind": "sequential"}

    def plan(outcome: str, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {"id": f"sequential-{outcome}", "kind": "sequential", "tasks": list(tasks)} | fields

    seen = {"previous": "b", "results": {"a": "a", "b": "b"}}
    yield Case(
        plan("good", step("a", "good", sure=0.5), step("b", "good"), step("c", "relay")),
        [ok("a", 0.5), ok("b"), ok(seen, 1, "relay")],
        head | {"status": "success", "result": seen, "confidence": 0.5},
    )
    why = f"step 'x' ended as failure: {FAILED_MESSAGE}"
    one = [ok("a"), refused(), not_done(f"not started: {why}")]
    yield Case(
        plan("one", step("a", "good"), step("x", "fail"), step("c", "good")),
        one,
        head | {"status": "failure"} | _error("http_4xx", why),
    )
    on = {"previous": "a", "results": {"a": "a"}}
    yield Case(
        plan("goes-on", step("a", "good"), step("x", "fail"), step("c", "relay"), continueOnError=True),
        [ok("a"), refused(), ok(on, 1, "relay")],
        head | {"status": "success", "result": on, "confidence": 0.9},
    )
    yield Case(
        plan("none", step("x", "fail"), step("y", "fail"), continueOnError=True),
        [refused(), refused()],
        head | {"status": "failure"} | _every("x", "y"),
    )
    late = [ok("a"), not_done(f"stopped: {LATE_MESSAGE}"), not_done(f"not started: {LATE_MESSAGE}")]
    three = [step("a", "good"), step("h", "hang"), step("c", "good")]
    yield Case(plan("timeout", *three, timeout=OUT_OF_TIME_MS), late, head | TIMEOUT)
    stopped = [ok("a"), not_done(f"stopped: {CANCEL_MESSAGE}"), not_done(f"not started: {CANCEL_MESSAGE}")]
    yield Case(plan("cancel", *three), stopped, head | CANCELLED, cancel=True)
    chosen = step("b", "relay", input="{first: results.a, last: previous}")
    picked = {"input": {"first": [7], "last": [7]}}
    yield Case(
        plan("input", step("a", "good", say=[7]), chosen),
        [ok([7]), ok(picked, 1, "relay")],
        head | {"status": "success", "result": picked, "confidence": 0.9},
    )


def dag() -> Iterable[Case]:
    """A diamond: a, then b and c, then d."""
    head = {"kind": "dag"}

    def diamond(outcome: str, b: str = "good", a: str = "good", **fields: Any) -> dict[str, Any]:
        tasks = [
            step("d", "relay", dependencies=["b", "c"]),
            step("a", a, sure=0.8),
            step("b", b, sure=0.7, dependencies=["a", "c"] if b == "hang" else ["a"]),
            step("c", "good", dependencies=["a"]),
        ]
        return {"id": f"dag-{outcome}", "tasks": tasks} | fields

    met = {"previous": "c", "results": {"b": "b", "c": "c"}}
    yield Case(
        diamond("good"),
        [ok(met, 1, "relay"), ok("a", 0.8), ok("b", 0.7), ok("c")],
        head | {"status": "success", "result": met, "confidence": 0.7},
    )
    yield Case(
        diamond("one", b="fail"),
        [not_done("skipped: it depends on 'b', which did not succeed"), ok("a", 0.8), refused(), ok("c")],
        head | {"status": "failure"} | _why("b"),
    )
    part = {"previous": "c", "results": {"c": "c"}}
    yield Case(
        diamond("goes-on", b="fail", kind="dag", continueOnError=True),
        [ok(part, 1, "relay"), ok("a", 0.8), refused(), ok("c")],
        head | {"status": "success", "result": part, "confidence": 0.8},
    )
    skipped = not_done("skipped: it depends on 'a', which did not succeed")
    yield Case(
        diamond("none", a="fail"),
        [skipped, refused(), skipped, skipped],
        head | {"status": "failure"} | _why("a"),
    )
    for outcome, why, rest in (("timeout", LATE_MESSAGE, TIMEOUT), ("cancel", CANCEL_MESSAGE, CANCELLED)):
        limit = {"timeout": OUT_OF_TIME_MS} if outcome == "timeout" else {}
        yield Case(
            diamond(outcome, b="hang", **limit),
            [not_done(f"not started: {why}"), ok("a", 0.8), not_done(f"stopped: {why}"), ok("c")],
            head | rest,
            outcome == "cancel",
        )


def consensus() -> Iterable[Case]:
    """What several answers come to."""
    head = {"kind": "parallel", "strategy": "allSettled", "status": "success"}
    votes = [("a", "yes", 0.5), ("b", "no", 0.75), ("c", "yes", 0.5)]
    numbers = [("a", 10, 0.75), ("b", 20, 0.25)]
    objects = [("a", {"x": 1, "y": 1}, 0.5), ("b", {"y": 2}, 0.75)]
    for how, said, answer, confidence in (
        ("vote", votes, "yes", 1 / 3),
        ("best", votes, "no", 0.75),
        ("mean", numbers, 12.5, 0.5),
        ("merge", objects, {"x": 1, "y": 2}, 0.625),
    ):
        plan = {
            "id": f"consensus-{how}",
            "strategy": "allSettled",
            "tasks": [step(name, "good", say, sure) for name, say, sure in said] + [step("x", "fail")],
            "metadata": {"consensus": how},
        }
        ends = [ok(say, sure) for _, say, sure in said] + [refused()]
        yield Case(plan, ends, head | {"result": answer, "confidence": round(confidence, 9)})
    odd = {"id": "consensus-odd", "strategy": "all", "tasks": [step("a", "good")], "metadata": {"consensus": "mean"}}
    why = _error("bad_response", "metadata.consensus: mean: the answer of 'a' is not a number")
    yield Case(odd, [ok("a")], {"kind": "parallel", "strategy": "all", "status": "failure"} | why)


TEMPLATES: list[dict[str, Any]] = [
    {
        "name": "twice",
        "parameters": {"sure": 0.5},
        "plan": {
            "kind": "sequential",
            "tasks": [
                step("one", "good", say="${word}!", sure="${sure}"),  # type: ignore[arg-type]
                step("two", "relay"),
            ],
        },
    },
    {
        "name": "outer",
        "plan": {
            "strategy": "race",
            "tasks": [
                {"id": "in", "type": "pattern", "target": "twice", "payload": {"word": "${word}"}, "metadata": {}},
                step("h", "hang"),
            ],
        },
    },
]


def nested() -> Iterable[Case]:
    """A pattern in a pattern in a plan; and one whose parameter is missing."""

    def plan(name: str, payload: dict[str, Any]) -> dict[str, Any]:
        task = {"id": "p", "type": "pattern", "target": "outer", "payload": payload, "metadata": {}}
        return {"id": name, "kind": "sequential", "tasks": [task]}

    value = {"previous": "hey!", "results": {"one": "hey!"}}
    head = {"kind": "sequential"}
    yield Case(
        plan("nested-good", {"word": "hey"}),
        [{"status": "success", "result": value, "confidence": 0.5}],
        head | {"status": "success", "result": value, "confidence": 0.5},
    )
    error = _error("invalid_plan", "pattern 'outer': tasks.0.payload.word: the pattern's parameter 'word' is not given")
    why = _error("invalid_plan", f"step 'p' ended as failure: {error['error']['message']}")
    yield Case(plan("nested-missing", {}), [{"status": "failure"} | error], head | {"status": "failure"} | why)


REFUSED_PLANS: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "bad-ids", "tasks": [step("a", "good"), step("a", "good")]}, "parallel", "tasks.1.id: 'a' is the id of tasks.0"),
    (
        {"id": "bad-cycle", "tasks": [step("a", "good", dependencies=["b"]), step("b", "good", dependencies=["a"])]},
        "dag",
        "tasks.0.metadata.dependencies: a cycle: a -> b -> a",
    ),
    (
        {"id": "bad-name", "kind": "dag", "tasks": [step("a", "good", dependencies=["z"])]},
        "dag",
        "tasks.0.metadata.dependencies.0: the plan has no task 'z'",
    ),
    ({"id": "bad-empty", "tasks": []}, "parallel", "tasks: list should have at least 1 item"),
]  # fmt: skip
"""Plans that cannot be run: the kind their result has, and how its reason begins."""


def all_cases() -> list[Case]:
    """The whole matrix."""
    found: list[Case] = []
    for strategy in ("all", "race", "allSettled", "weighted"):
        found += parallel(strategy)
    return [*found, *sequential(), *dag(), *consensus(), *nested()]
