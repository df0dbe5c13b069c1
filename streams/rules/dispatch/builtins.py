"""The built-in agent that runs a task of another type than `agent`: a host, a function, a pattern. Pure.

In: a task of type `http`, `function` or `pattern`, and the settings. Out: a registration made here, so such a task has
the same queue, limits, breaker, retries and deadline as any other. Its id has an owner partition like every agent's,
and is the `agentId` of results and data points:

    http      http:<host>:<port>, or http:*.<host>:<port> for hosts that match a wildcard: one per entry of the allow-list
    function  function:<name>
    pattern   pattern:<name>

Ids with these prefixes cannot be registered. A task that may not run fails at once, without a queue: `AgentError`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Container, Mapping
from typing import Any, Literal

from pydantic import model_validator

from agents_io.errors import AgentError, UnknownFunction, Unsupported
from agents_io.protocols.http_tasks.rules.orders import SAFE
from agents_io.rules.targets import AllowList, parse_target
from schemas.messages import AgentRegistration, Limits, Task

Kind = Literal["http", "function", "pattern"]

MAX_KNOWN = 10_000
MAX_ID = 256
UNLIMITED = {"max_requests": 1_000_000, "window_ms": 1}
"""In effect no rate limit, in a window too short to need memory."""
_PATTERN_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class Builtin(AgentRegistration):
    """A registration derived from a task; `endpoint` is the function's or pattern's name, or the host."""

    kind: Kind

    @model_validator(mode="after")
    def _reachable(self) -> Builtin:
        return self

    @model_validator(mode="after")
    def _unreserved(self) -> Builtin:
        return self

    @property
    def transport(self) -> str:
        """`task:http`, `task:function`, `task:pattern`: protocols that no registration can have."""
        return f"task:{self.kind}"


class Builtins:
    """The built-in agents of a worker. Each keeps its registration: one agent is one object."""

    def __init__(
        self, *, allowed: AllowList, functions: Container[str], patterns: bool, limits: Mapping[Kind, Limits | None]
    ) -> None:
        """`patterns`: whether there is an executor. `limits`: None for the default limits of agents."""
        self._allowed = allowed
        self._functions = functions
        self._patterns = patterns
        self._limits = limits
        self._known: OrderedDict[str, Builtin] = OrderedDict()

    def agent(self, task: Task) -> AgentRegistration:
        """The built-in agent of a task. Raises `ForbiddenTarget`, `UnknownFunction`, `Unsupported`.

        >>> none = dict(allowed=AllowList(["h"]), patterns=False, limits={"http": None, "function": None})
        >>> Builtins(functions=["f"], **none).agent(Task(id="t", type="function", target="f", payload=1)).id
        'function:f'
        """
        target = task.target or ""
        if task.type == "http":
            return self._made("http", self._allowed.host_key(parse_target(target)))
        if task.type == "function":
            if target not in self._functions:
                raise UnknownFunction(f"no function {target[:80]!r} is registered on this worker")
            return self._made("function", target)
        if not self._patterns:
            raise Unsupported(
                "type: pattern tasks need a local template of that name (plans.templates) or a control plane (control_plane.url)"
            )
        if not _PATTERN_NAME.fullmatch(target):
            raise Unsupported("target: a pattern's name has 1 to 200 printable characters")
        return self._made("pattern", target)

    def _made(self, kind: Kind, name: str) -> Builtin:
        agent_id = f"{kind}:{name}"
        known = self._known.get(agent_id)
        if known is None:
            known = self._known[agent_id] = Builtin(
                id=agent_id[:MAX_ID], endpoint=name, kind=kind, limits=self._limits[kind]
            )
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(agent_id)
        return known


def asked_of(task: Task, payload: Any) -> Any:
    """The input of the task's transport, as JSON: the payload, and for an http task the request around it.

    >>> asked_of(Task(id="t", type="http", target="http://h/", payload=1, metadata={"method": "PUT"}), 1)
    {'url': 'http://h/', 'method': 'PUT', 'headers': None, 'query': None, 'payload': 1}
    """
    if task.type != "http":
        return payload
    given = task.metadata
    return {
        "url": task.target,
        "method": given.method,
        "headers": given.headers,
        "query": given.query,
        "payload": payload,
    }


def cacheable(task: Task) -> bool:
    """Whether the answer may be given to an equal task: by default yes, for http tasks only if the request changes
    nothing.

    An http task with another method than GET or HEAD must ask for the cache itself, and so must a task of a
    conversation, whose answer depends on earlier ones.

    >>> ask = {"id": "t", "type": "http", "target": "http://h/", "payload": None}
    >>> [cacheable(Task(**ask, metadata=m)) for m in ({}, {"method": "GET"}, {"cache": True})]
    [False, True, True]
    """
    given = task.metadata
    if "cache" in given.model_fields_set:
        return given.cache
    if given.context_id is not None:
        return False
    if task.type != "http":
        return given.cache
    return given.method in SAFE


def builtin_id(task: Task) -> str:
    """The id under which a task of another type than `agent` is answered once, whether it may run here or not.

    >>> builtin_id(Task(id="t", type="function", target="f", payload=1))
    'function:f'
    >>> builtin_id(Task(id="t", type="http", target="https://H/x?y", payload=1))
    'http:h:443'
    """
    target = task.target or ""
    if task.type == "http":
        try:
            found = parse_target(target)
        except AgentError:
            return f"http:{target}"[:MAX_ID]
        host = f"[{found.host}]" if ":" in found.host else found.host
        return f"http:{host}:{found.port}"[:MAX_ID]
    return f"{task.type}:{target}"[:MAX_ID]
