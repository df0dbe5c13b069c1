"""Which built-in agent a task has, under which id and with which limits."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from agents_io.errors import AgentError, ForbiddenTarget, UnknownFunction, Unsupported
from agents_io.rules.targets import AllowList
from schemas.messages import AgentRegistration, Limits, Task
from streams.dispatch.task_kinds import task_kinds
from streams.rules.dispatch import builtins
from streams.rules.dispatch.builtins import UNLIMITED, Builtin, Builtins, cacheable
from streams.settings import Settings
from tests.support.memory import held


def made(**changes: Any) -> Builtins:
    """Hosts `h` and below `wide`, functions `f` and `g`, patterns."""
    fields: dict[str, Any] = {
        "allowed": AllowList(["h", "h:81", "*.wide"]),
        "functions": ("f", "g"),
        "patterns": True,
        "limits": {"http": None, "function": Limits(**UNLIMITED), "pattern": None},
    }
    return Builtins(**fields | changes)


def task(kind: str, target: str, **fields: Any) -> Task:
    """A task of that type."""
    return Task.model_validate({"id": "t", "type": kind, "target": target, "payload": None} | fields)


@pytest.mark.parametrize(
    ("kind", "target", "agent_id", "transport"),
    [
        ("http", "http://h/a", "http:h:80", "task:http"),
        ("http", "https://H/b?c", "http:h:443", "task:http"),
        ("http", "http://h:81", "http:h:81", "task:http"),
        ("http", "http://a.wide/", "http:*.wide:80", "task:http"),
        ("http", "http://b.wide/", "http:*.wide:80", "task:http"),
        ("function", "f", "function:f", "task:function"),
        ("pattern", "deep research", "pattern:deep research", "task:pattern"),
    ],
)
def test_ids_and_protocols(kind: str, target: str, agent_id: str, transport: str) -> None:
    """One object for one agent, so that it is not taken for a changed registration."""
    known = made()
    agent = known.agent(task(kind, target))
    assert (agent.id, agent.transport) == (agent_id, transport)
    assert known.agent(task(kind, target)) is agent
    assert (agent.limits is not None) == (kind == "function")


@pytest.mark.parametrize(
    ("kind", "target", "error"),
    [
        ("http", "http://elsewhere/", ForbiddenTarget),
        ("http", "h", ForbiddenTarget),
        ("function", "h", UnknownFunction),
        ("function", "os.system", UnknownFunction),
        ("pattern", "a\nb", Unsupported),
        ("pattern", "x" * 201, Unsupported),
    ],
)
def test_what_may_not_run_has_no_agent(kind: str, target: str, error: type[AgentError]) -> None:
    """Invalid tasks make no queues."""
    with pytest.raises(error) as caught:
        made().agent(task(kind, target))
    assert type(caught.value) is error
    assert not caught.value.retryable


def test_patterns_need_somebody_to_execute_them() -> None:
    """Or they end as before."""
    with pytest.raises(Unsupported, match=r"control_plane\.url"):
        made(patterns=False).agent(task("pattern", "p"))


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused goes."""
    monkeypatch.setattr(builtins, "MAX_KNOWN", 2)
    known = made()
    first = known.agent(task("pattern", "a"))
    known.agent(task("pattern", "b"))
    assert known.agent(task("pattern", "a")) is first
    known.agent(task("pattern", "c"))
    assert known.agent(task("pattern", "a")) is first
    assert len(held(known, Builtin)) == 2


@pytest.mark.parametrize("agent_id", ["http:h:80", "function:f", "pattern:p", "http:"])
def test_nobody_can_register_such_an_id(agent_id: str) -> None:
    """It would be called in a function's place."""
    with pytest.raises(ValidationError, match="must not begin with"):
        AgentRegistration.model_validate({"id": agent_id, "endpoint": "http://evil"})


def test_no_registration_reaches_the_transports_of_built_in_agents() -> None:
    """Their protocols are no protocols of the wire."""
    for protocol in ("task:function", "function", "task:http"):
        with pytest.raises(ValidationError):
            AgentRegistration.model_validate({"id": "a", "endpoint": "f", "protocol": protocol})


@pytest.mark.parametrize(
    ("kind", "metadata", "kept"),
    [
        ("function", {}, True),
        ("function", {"cache": False}, False),
        ("pattern", {}, True),
        ("http", {}, False),
        ("http", {"method": "POST"}, False),
        ("http", {"method": "GET"}, True),
        ("http", {"method": "HEAD"}, True),
        ("http", {"method": "GET", "cache": False}, False),
        ("http", {"method": "DELETE", "cache": True}, True),
    ],
)
def test_which_answers_may_be_kept(kind: str, metadata: dict[str, Any], kept: bool) -> None:
    """Of http only what changes nothing, unless the task asks for it."""
    assert cacheable(task(kind, "http://h/", metadata=metadata)) is kept


def test_limits_come_from_the_settings() -> None:
    """Hosts as agents, functions and patterns without a rate unless one is set."""
    settings = Settings.model_validate(
        {
            "http_tasks": {"allow": "h,127.0.0.1:80", "max_requests": 7},
            "functions": {"modules": "tests.support.some_functions", "max_concurrency": 3},
            "control_plane": {"url": "http://plane", "max_requests": 5, "window_ms": "10s"},
        }
    )
    known = task_kinds(settings).builtins
    http, function, pattern = (
        known.agent(task(kind, target)).limits
        for kind, target in (("http", "http://h/"), ("function", "double"), ("pattern", "p"))
    )
    assert http is not None
    assert function is not None
    assert pattern is not None
    assert (http.max_requests, http.window_ms, http.max_concurrency) == (7, 60_000, 10)
    assert (function.max_requests / function.window_ms, function.max_concurrency) == (1_000_000, 3)
    assert (pattern.max_requests, pattern.window_ms) == (5, 10_000)


def test_by_default_nothing_may_run() -> None:
    """No host, no function, no pattern."""
    known = task_kinds(Settings()).builtins
    for kind, target in (("http", "http://h/"), ("function", "f"), ("pattern", "p")):
        with pytest.raises(AgentError):
            known.agent(task(kind, target))
