"""`@agent`: a function becomes an agent that serves over HTTP, dials in to a worker, or reads a Kafka topic.

    @agent("summarizer", capabilities=["summarize"])
    async def summarize(payload):
        return "short", 0.9              # a value, (value, confidence) or Answer(...)

    summarize({"text": "long"})          # the function itself, for tests
    summarize.serve(port=9000)

An annotated parameter is validated: `def f(request: Request)` gets a pydantic model, and a payload that does not fit is answered
with 400 and the name of the field. A second parameter `context` receives the results of a plan's earlier steps. A plain function
runs in a thread. Raise `Declined` to say that trying again is useless.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError

from agents_io.rules.callables import function_of, is_async, is_generator
from agents_io.serving.answers import CallFailed, bad_payload
from agents_io.serving.runs import Runs

P = ParamSpec("P")
R = TypeVar("R")

CONCURRENCY = 10
_UNTYPED = (Any, inspect.Parameter.empty, object, dict, Mapping)


class AgentFunction(Generic[P, R]):
    """The agent made of a function; calling it calls the function."""

    def __init__(
        self,
        *,
        function: Callable[P, R],
        name: str,
        capabilities: Sequence[str],
        concurrency: int,
        default_confidence: float,
    ) -> None:
        self.id = name
        self.capabilities = tuple(capabilities)
        self.concurrency = concurrency
        self.default_confidence = default_confidence
        self._function = function
        self._adapter, self._takes_context = _signature(function)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<agent {self.id!r}>"

    def runs(self) -> Runs:
        """Runs of the function: bounded in number, with a memory of answers."""
        return Runs(
            self.id,
            self.call,
            is_async=is_async(self._function),
            concurrency=self.concurrency,
            default_confidence=self.default_confidence,
        )

    def call(self, payload: Any) -> Any:
        """Call the function with a task's JSON. Raises `CallFailed` when it does not fit the function's parameter."""
        context = None
        if isinstance(payload, dict) and isinstance(payload.get("context"), dict):
            if self._takes_context:
                context = payload["context"]
            if self._takes_context or self._adapter is not None:
                payload = {name: value for name, value in payload.items() if name != "context"}
            if payload.keys() == {"payload"}:
                payload = payload["payload"]  # what is no object comes wrapped beside its context
        value = payload
        if self._adapter is not None:
            try:
                value = self._adapter.validate_python(payload)
            except ValidationError as error:
                raise bad_payload(error) from None
        function: Any = self._function
        return function(value, context=context) if self._takes_context else function(value)

    @asynccontextmanager
    async def serving(self, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[str]:
        """Serve over HTTP within the block; yields the endpoint. `port` 0: a free one."""
        from agents_io.serving.http import HttpAgent

        async with HttpAgent(agent=self, host=host, port=port) as server:
            yield server.endpoint

    def serve(self, port: int = 9000, *, host: str = "127.0.0.1", stop_timeout: float = 20.0) -> None:
        """Serve over HTTP until SIGTERM or Ctrl-C: POST /analyze, GET /health, GET /capabilities.

        Calls under way may finish within `stop_timeout` seconds.
        """
        from agents_io.serving.http import HttpAgent
        from agents_io.serving.main import run_until_stopped

        run_until_stopped(HttpAgent(agent=self, host=host, port=port, stop_timeout=stop_timeout))

    def dial(
        self,
        *gateways: str,
        token: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        stop_timeout: float = 20.0,
    ) -> None:
        """Dial in to a worker's gRPC port ("host:50051") and answer until SIGTERM; several are tried in turn.

        `ca_file`: use TLS and trust this CA; `cert_file` and `key_file`: our own certificate. `token`: the gateway's.
        """
        from agents_io.serving.gateway import GatewayAgent, credentials
        from agents_io.serving.main import run_until_stopped

        secured = credentials(ca_file, cert_file, key_file)
        run_until_stopped(GatewayAgent(self, gateways, token=token, credentials=secured, stop_timeout=stop_timeout))

    def consume(
        self,
        bootstrap_servers: str,
        *,
        topic: str | None = None,
        group: str | None = None,
        stop_timeout: float = 20.0,
        **client: Any,
    ) -> None:
        """Read requests from a Kafka topic (default `<name>.requests`) and reply, until SIGTERM.

        Instances of one `group` (default: the agent's name) share the partitions. `client`: more for aiokafka's clients.
        """
        from agents_io.serving.kafka import KafkaAgent
        from agents_io.serving.main import run_until_stopped

        run_until_stopped(
            KafkaAgent(
                agent=self,
                servers=bootstrap_servers,
                topic=topic,
                group=group,
                client=client,
                stop_timeout=stop_timeout,
            )
        )


def agent(
    name: str,
    *,
    capabilities: Sequence[str] = (),
    concurrency: int = CONCURRENCY,
    confidence: float = 1.0,
) -> Callable[[Callable[P, R]], AgentFunction[P, R]]:
    """Make a function an agent. `concurrency`: calls at once, further ones are answered 429; `confidence`: of answers
    without one.
    """
    if not isinstance(name, str):
        raise TypeError(f'an agent needs a name, not {name!r}: @agent("summarizer")')
    if not 1 <= len(name) <= 256:
        raise ValueError(f"an agent cannot be named {name[:80]!r}: 1 to 256 characters")
    if isinstance(capabilities, str):
        raise TypeError(f"capabilities: must be a list of names, not {capabilities!r}")
    if not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"concurrency: must be an integer of 1 or more, not {concurrency!r}")
    if not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise ValueError(f"confidence: must be a number between 0 and 1, not {confidence!r}")

    def made(function: Callable[P, R]) -> AgentFunction[P, R]:
        return AgentFunction(
            function=function,
            name=name,
            capabilities=capabilities,
            concurrency=concurrency,
            default_confidence=confidence,
        )

    return made


def _signature(function: Callable[..., Any]) -> tuple[TypeAdapter[Any] | None, bool]:
    """The validator of a typed payload, if any, and whether the function takes a context. Raises TypeError."""
    where = getattr(function, "__qualname__", repr(function))
    if inspect.isclass(function):
        raise TypeError(f"{where}: an agent is a function or an object with __call__, not a class")
    if is_generator(function):
        raise TypeError(f"{where}: an agent's function returns its answer; a generator yields several")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise TypeError(f"{where}: an agent's function takes the payload")
    first, others = parameters[0], parameters[1:]
    if first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD, first.VAR_POSITIONAL):
        raise TypeError(f"{where}: an agent's function takes the payload")
    open_ended = (first.VAR_KEYWORD, first.VAR_POSITIONAL)
    required = [one.name for one in others if one.default is one.empty and one.kind not in open_ended]
    if first.name == "self" and inspect.isfunction(function):
        raise TypeError(f"{where}: this method has no object; register the bound method: agent(NAME)(OBJECT.METHOD)")
    if unknown := [name for name in required if name != "context"]:
        raise TypeError(f"{where}: {unknown[0]}: only the payload and `context` are passed")
    try:
        annotation = typing.get_type_hints(function_of(function)).get(first.name, Any)
    except (NameError, TypeError):  # a name that only a type checker sees; a callable of C
        annotation = Any
    untyped = annotation in _UNTYPED or typing.get_origin(annotation) in (dict, Mapping)
    takes_context = any(one.name == "context" for one in others)
    return (None if untyped or isinstance(annotation, TypeVar) else TypeAdapter(annotation)), takes_context


__all__ = ["AgentFunction", "CallFailed", "agent"]
