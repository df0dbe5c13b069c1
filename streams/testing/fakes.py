"""A scripted agent of any protocol: it answers, fails, hangs or sends invalid answers as its script says, and logs
every call.

In: a script: a value, a function of the payload, or steps (`answer`, `status`, `hang`, `reset`, `nan`, ...), each for a
number of calls (one, unless `times` says otherwise), the last one forever. Out: `calls`, as the agent saw them, and
`endpoint`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from agents_io.fakes.http import FakeAgent as HttpFake
from agents_io.fakes.http import Received
from agents_io.fakes.steps import ScriptStep, answer, compute
from agents_io.protocols.a2a.fake import FakeA2a
from agents_io.protocols.gateway.fake import GatewayFakeAgent
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.kafka.fake import FakeKafkaAgent
from agents_io.protocols.mcp.fake import FakeMcp
from agents_io.protocols.openai.fake import FakeChat
from schemas.messages import Protocol

Script = Any
"""A value, a function of the payload, a `ScriptStep`, or a list of these."""

_SERVERS: dict[str, type[HttpFake]] = {
    "http": HttpFake,
    "grpc": GrpcFakeAgent,
    "a2a": FakeA2a,
    "openai": FakeChat,
    "mcp": FakeMcp,
}
CONFIDENCE = 0.9


class FakeAgent:
    """`FakeAgent([status(503, times=2), "ok"], id="a1")`; inside `Pipeline(agents=[...])` it is registered and reachable.

    By itself it is an asynchronous context manager for the protocols that serve (http, grpc, a2a, openai, mcp); `gateway` and
    `kafka` need a pipeline. `limits`, `breaker`, `metadata`: of its registration.
    """

    def __init__(
        self,
        script: Script = "ok",
        *,
        id: str = "fake",
        protocol: Protocol = "http",
        confidence: float = CONFIDENCE,
        capabilities: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
        breaker: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        per_task: bool = False,
    ) -> None:
        self.id = id
        self.protocol: Protocol = protocol
        self.capabilities = list(capabilities)
        self.topic = f"{id}.requests"
        """The topic that an agent of protocol `kafka` reads."""
        self._confidence = confidence
        self._limits = limits
        self._breaker = breaker
        self._metadata = metadata
        self._per_task = per_task
        self._steps = steps_of(script, confidence)
        self._fake: HttpFake | None = None

    @property
    def calls(self) -> deque[Received]:
        """Every call so far: `payload`, `headers`, `key` (the Idempotency-Key), how it `ended`, and its times."""
        return self._running.calls

    @property
    def keys(self) -> Counter[str]:
        """How often each Idempotency-Key was seen."""
        return self._running.keys

    @property
    def endpoint(self) -> str:
        """The endpoint for its registration."""
        return f"gateway://{self.id}" if self.protocol == "gateway" else self._running.endpoint

    @property
    def healthy(self) -> bool:
        """Whether health checks succeed; may be set."""
        return self._running.healthy

    @healthy.setter
    def healthy(self, value: bool) -> None:
        self._running.healthy = value

    def script(self, script: Script) -> None:
        """Restart with another script."""
        self._steps = steps_of(script, self._confidence)
        if self._fake is not None:
            self._fake.script(self._steps)

    @property
    def steps(self) -> list[ScriptStep]:
        return list(self._steps)

    def registration(self, endpoint: str | None = None) -> dict[str, Any]:
        """Its registration's JSON object; `endpoint`: replaces its own."""
        data: dict[str, Any] = {"id": self.id, "endpoint": endpoint or self.endpoint, "protocol": self.protocol}
        data["capabilities"] = self.capabilities
        metadata = dict(self._metadata or {})
        if self.protocol == "openai":
            metadata.setdefault("model", "fake")
        if self.protocol == "mcp":
            metadata.setdefault("tool", "analyze")
        if self._limits is not None:
            data["limits"] = dict(self._limits)
        if self._breaker is not None:
            data["breaker"] = dict(self._breaker)
        return data | ({"metadata": metadata} if metadata else {})

    async def start(self, *, bootstrap_servers: str = "", gateway: str = "") -> None:
        """Serve, dial in or consume."""
        options: dict[str, Any] = {"per_task": self._per_task, "capabilities": self.capabilities}
        if self.protocol == "kafka":
            self._need(bootstrap_servers)
            self._fake = FakeKafkaAgent(bootstrap_servers, self.topic, self._steps, **options)
        elif self.protocol == "gateway":
            self._need(gateway)
            self._fake = GatewayFakeAgent(self.id, self._steps, gateways=[gateway], **options)
        else:
            self._fake = _SERVERS[self.protocol](self._steps, **options)
        await self._fake.__aenter__()

    async def stop(self) -> None:
        """Stop; its log stays."""
        if self._fake is not None:
            await self._fake.__aexit__(None, None, None)

    async def __aenter__(self) -> FakeAgent:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _running(self) -> HttpFake:
        if self._fake is None:
            raise RuntimeError(f"agent {self.id} is not started: use it within `async with`, or in a Pipeline")
        return self._fake

    def _need(self, address: str) -> None:
        if not address:
            raise RuntimeError(f"agent {self.id}: a {self.protocol} agent needs a Pipeline")


def steps_of(script: Script, confidence: float = CONFIDENCE) -> list[ScriptStep]:
    """A script as steps, each for one call unless it has `times`, the last one forever. Raises `ValueError`.

    A function returns the value, or a pair of value and confidence.

    >>> [(step.kind, step.times) for step in steps_of(["a", answer("b", times=2), lambda payload: payload])]
    [('answer', 1), ('answer', 2), ('compute', None)]
    """
    steps = [_step(one, confidence) for one in (script if isinstance(script, list) else [script])]
    if not steps:
        raise ValueError("script: needs at least one step")
    # A step without an end would block those after it.
    return [replace(step, times=step.times or 1) for step in steps[:-1]] + steps[-1:]


def _step(one: Any, confidence: float) -> ScriptStep:
    if isinstance(one, ScriptStep):
        return one
    if callable(one):
        return compute(lambda payload: _answered(one(payload), confidence))
    return answer(one, confidence, times=None)


def _answered(returned: Any, confidence: float) -> dict[str, Any]:
    value, sure = returned if _is_pair(returned) else (returned, confidence)
    return {"value": value, "confidence": sure}


def _is_pair(returned: Any) -> bool:
    return isinstance(returned, tuple) and len(returned) == 2
