"""How workers are set, which a rollout changes: where tasks of other types than `agent` may go, which ids and answers are kept.

In: settings and a generator. Out: other settings; what the product makes of them; and, by plain rules of our own, which built-in
agent they give a task.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from schemas.messages import Limits
from streams.rules.dispatch.builtins import Builtins
from streams.rules.plans.templates import Template, read_templates
from streams.settings import Settings
from tests.simulation.agents import Limits as SimLimits

TARGETS = {
    "http": ("http://a.wide/1", "http://a.wide/2", "http://b.wide/", "http://c.narrow/"),
    "function": ("f0",),
    "pattern": ("p0", "p1", "p2"),
}
BUILTIN_AGENTS = (
    "http:a.wide:80", "http:b.wide:80", "http:c.narrow:80", "http:*.wide:80", "function:f0", "pattern:p0", "pattern:p1",
    "pattern:p2",
)  # fmt: skip
ALLOWED = (
    ("a.wide", "b.wide", "c.narrow"),
    ("*.wide", "c.narrow"),
    ("a.wide", "*.wide"),
    ("http://c.narrow",),
    (),
)
CONTROL_PLANE = "http://control-plane"
TEMPLATE_FILES = (None, "p0", "p1,p2", "p0,p1,p2")
"""A file's name lists the patterns in it."""
PAYLOAD = "${payload}"
TEMPLATES: dict[str, list[dict[str, Any]]] = {
    "p0": [
        {"id": "a", "type": "agent", "target": "ag0", "payload": PAYLOAD},
        {"id": "b", "type": "agent", "capabilities": ["fly"], "payload": PAYLOAD},
    ],
    "p1": [{"id": "a", "type": "pattern", "target": "p0", "payload": PAYLOAD}],
    "p2": [{"id": "a", "type": "http", "target": "http://a.wide/1", "payload": PAYLOAD}],
}


def with_limits(tree: dict[str, Any], rng: random.Random) -> SimLimits:
    """Add limits of all built-in agents to settings; returns them."""
    limits = SimLimits(rng.choice((10, 30, 1000)), rng.choice((2.0, 10.0)), rng.choice((1, 3, 10)))
    for section in ("http_tasks", "functions", "control_plane"):
        tree[section] = {
            "max_requests": limits.max_requests,
            "window_ms": round(limits.window_s * 1000),
            "max_concurrency": limits.concurrency,
        }
    return limits


def changed(settings: Settings, rng: random.Random, ids: Sequence[int]) -> Settings:
    """Other settings for the same limits. `ids`: what `dispatch.idempotency_ids` may be."""
    changes: dict[str, dict[str, object]] = {
        "plans": {"templates": rng.choice(TEMPLATE_FILES)},
        "control_plane": {"url": rng.choice((None, CONTROL_PLANE))},
        "http_tasks": {"allow": rng.choice(ALLOWED)},
        "functions": {"modules": rng.choice(((), ("f0",)))},
        "dispatch": {"idempotency_ids": rng.choice(ids)},
        "cache": {"enabled": rng.random() < 0.7},
    }
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=change) for name, change in changes.items()}
    )


def builtins_of(settings: Settings) -> Builtins:
    """The built-in agents of a worker. Its modules are the functions themselves."""
    given = settings.http_tasks
    limits = Limits(max_requests=given.max_requests, window_ms=given.window_ms, max_concurrency=given.max_concurrency)
    return Builtins(
        allowed=given.allow_list(),
        functions=settings.functions.modules,
        patterns=settings.control_plane.url is not None,
        limits={"http": limits, "function": limits, "pattern": limits},
    )


def templates_of(settings: Settings) -> dict[str, Template]:
    """The local patterns of a worker."""
    names = (settings.plans.templates or "").split(",")
    return read_templates(
        {"name": name, "plan": {"kind": "sequential", "tasks": TEMPLATES[name]}} for name in names if name
    )


def agent_of(settings: Settings, kind: str, target: str) -> str | None:
    """The built-in agent that may be called for a task; None: none may."""
    if kind == "function":
        return f"function:{target}" if target in settings.functions.modules else None
    if kind == "pattern":
        return f"pattern:{target}" if settings.control_plane.url is not None else None
    host = urlsplit(target).hostname or ""
    for entry in settings.http_tasks.allow:
        name = entry.removeprefix("http://")
        if name == host or (name.startswith("*.") and host.endswith(name[1:])):
            return f"http:{name}:80"
    return None
