"""Tasks of other types than `agent`, made of those for agents, and ids that are sent again with another content or type.

In: a generator, the JSON of a task. Out: the JSON of another one. Its metadata has `copy`, the number of this task among those of
its id: a result repeats it, and so shows which of them it answers.
"""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any
from urllib.parse import urlsplit

from tests.simulation.deployments import TARGETS

TYPES = ("http", "http", "pattern", "pattern", "function")
OTHER_QUESTION = 1000

Scope = tuple[str, str]


def make_other(body: dict[str, Any], rng: random.Random) -> None:
    """Turn a task into one of another type than `agent`."""
    body["type"] = kind = rng.choice(TYPES)
    body["target"] = rng.choice(TARGETS[kind])
    body.pop("capabilities", None)
    body["metadata"].pop("method", None)
    if kind == "http":
        body["metadata"]["method"] = rng.choice(("GET", "POST"))


def copy_of(body: dict[str, Any], number: int, rng: random.Random) -> dict[str, Any] | None:
    """What is sent when an id is sent again: another content, or another type. None: the same."""
    kind = rng.choice(("same", "same", "content", "type"))
    if kind == "same" or "target" not in body or body["target"] == "nobody":
        return None
    copied = deepcopy(body)
    copied["metadata"]["copy"] = number
    if kind == "content":
        copied["payload"]["q"] += OTHER_QUESTION
    else:
        make_other(copied, rng)
    return copied


def scope_of(body: dict[str, Any]) -> Scope:
    """Tasks of one id and one scope are one task: the same agent, function, pattern or host; or any agent."""
    target = body.get("target", "")
    return body["type"], (urlsplit(target).netloc if body["type"] == "http" else target)


def fewest(scopes: set[Scope]) -> int:
    """How many tasks these are at least: hosts may share a wildcard, and templates the plan of their id."""
    return len({(kind, "" if kind in ("http", "pattern") else name) for kind, name in scopes})


def may_be_cached(body: dict[str, Any]) -> bool:
    """Whether an earlier answer may answer the task: by default if it changes nothing."""
    metadata = body["metadata"]
    return bool(metadata.get("cache", body["type"] != "http" or metadata.get("method") == "GET"))


def is_by(body: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a result names the agent that its task is for, and was answered by it."""
    kind, agent_id, answered = body["type"], row["agentId"], row["result"]["agent"]
    target = body.get("target", agent_id)
    if kind == "agent":
        return bool(answered == agent_id == target)
    if kind == "http":
        host = urlsplit(target).hostname or ""
        return answered == target and agent_id in (f"http:{host}:80", f"http:*.{host.partition('.')[2]}:80")
    return agent_id == f"{kind}:{target}" and (kind == "pattern" or answered == agent_id)
