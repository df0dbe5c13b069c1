"""What a worker needs for tasks other than those for agents: the transports for hosts, functions and patterns, and
their registrations.

In: settings. Out: transports by their internal protocol, and the built-in agents. Modules with functions are imported
here, at start, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.functions.catalogue import load_functions
from agents_io.protocols.functions.transport import FunctionTransport
from agents_io.protocols.http_tasks.transport import HttpTaskTransport
from agents_io.protocols.patterns.control_plane import ControlPlane
from agents_io.protocols.patterns.transport import PatternExecutor, PatternTransport
from agents_io.tls import CONTEXTS, TlsFiles
from agents_io.transport import Transport
from schemas.messages import Limits, SecretRef
from streams.rules.dispatch.builtins import UNLIMITED, Builtins
from streams.settings import Settings
from streams.settings_parts import ControlPlaneSettings, FunctionSettings, HttpTaskSettings


@dataclass(frozen=True, slots=True)
class TaskKinds:
    """`transports`: by protocol; the caller closes them."""

    transports: dict[str, Transport]
    builtins: Builtins


def task_kinds(settings: Settings) -> TaskKinds:
    """The transports of tasks without an agent, as the settings have them. Raises `FunctionsError`."""
    dispatch = settings.dispatch
    functions = load_functions(settings.functions.modules)
    allowed = settings.http_tasks.allow_list()
    executors = _control_plane(settings)
    transports: dict[str, Transport] = {
        "task:http": HttpTaskTransport(
            allowed,
            max_connections=dispatch.max_in_flight,
            max_answer_bytes=dispatch.max_answer_bytes,
            tls=lambda: CONTEXTS.get(TlsFiles(settings.tls.ca_file)),
        ),
        "task:function": FunctionTransport(
            functions,
            threads=settings.functions.threads,
            places=settings.functions.max_concurrency,
            max_answer_bytes=dispatch.max_answer_bytes,
        ),
        "task:pattern": PatternTransport(executors),
    }
    builtins = Builtins(
        allowed=allowed,
        functions=functions,
        patterns=bool(executors),
        limits={
            "http": _limits(settings.http_tasks),
            "function": _limits(settings.functions),
            "pattern": _limits(settings.control_plane),
        },
    )
    return TaskKinds(transports, builtins)


def _limits(section: HttpTaskSettings | FunctionSettings | ControlPlaneSettings) -> Limits:
    if section.max_requests is None:
        return Limits.model_validate(UNLIMITED | {"max_concurrency": section.max_concurrency})
    return Limits(
        max_requests=section.max_requests, window_ms=section.window_ms, max_concurrency=section.max_concurrency
    )


def _control_plane(settings: Settings) -> list[PatternExecutor]:
    given = settings.control_plane
    if given.url is None:
        return []
    files = TlsFiles(settings.tls.ca_file, settings.tls.cert_file, settings.tls.key_file)
    auth = None
    if given.token_env is not None or given.token_file is not None:
        auth = SecretRef(env=given.token_env, file=given.token_file)
    return [
        ControlPlane(
            given.url,
            auth,
            transport=PooledTransport(max_connections=settings.dispatch.max_in_flight, tls=lambda: CONTEXTS.get(files)),
            max_answer_bytes=settings.dispatch.max_answer_bytes,
        )
    ]
