"""The servers of the interop tier, and how each is registered: as the README says, and no more.

All of them do what `payload.task` says: `ok`, `fail`, `slow SECONDS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.messages import AgentRegistration, Protocol, SecretRef


@dataclass(frozen=True, slots=True)
class Kind:
    """One server. `cancels`: whether it is told of a cancelled call, and prints CANCELLED then."""

    name: str
    environment: str
    script: str
    protocol: Protocol
    path: str = ""
    arguments: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    cancels: bool = True
    slow_s: float = 60.0
    """How long a slow task takes; a server that cannot cancel one keeps the next waiting."""
    scheme: str = "http"
    is_found: bool = True
    """Whether it can be found by its address, and has a health page; else its protocol is named when it is added."""
    failure: tuple[str, bool] = ("http_5xx", True)
    """What a failed task is: the error's code, and whether it counts against the agent."""

    def endpoint(self, port: int) -> str:
        """Where it is registered at."""
        return f"{self.scheme}://127.0.0.1:{port}{self.path}"

    def agent(self, port: int, token_env: str | None) -> AgentRegistration:
        """The registration."""
        auth = None if token_env is None else SecretRef(env=token_env)
        return AgentRegistration(
            id=self.name,
            endpoint=self.endpoint(port),
            protocol=self.protocol,
            metadata=self.metadata or None,
            auth=auth,
        )


ACT = {"tool": "act"}
MODEL = {"model": "m"}
REST = ("rest",)
STREAM = {"stream": True}
KINDS = [
    Kind("a2a-sdk-1", "a2a1", "a2a_new.py", "a2a"),
    Kind("a2a-sdk-1-stream", "a2a1", "a2a_new.py", "a2a", metadata=STREAM),
    Kind("a2a-sdk-0.3", "a2a03", "a2a_old.py", "a2a"),
    Kind("a2a-sdk-0.3-stream", "a2a03", "a2a_old.py", "a2a", metadata=STREAM),
    Kind("a2a-sdk-1-rest", "a2a1", "a2a_new.py", "a2a", arguments=REST),
    Kind("a2a-sdk-1-rest-stream", "a2a1", "a2a_new.py", "a2a", arguments=REST, metadata=STREAM | {"tenant": "acme"}),
    Kind("a2a-sdk-0.3-rest", "a2a03", "a2a_old.py", "a2a", arguments=REST),
    Kind("a2a-sdk-0.3-rest-stream", "a2a03", "a2a_old.py", "a2a", arguments=REST, metadata=STREAM),
    Kind("pydantic-ai", "pydantic", "pydantic_agent.py", "a2a", cancels=False, slow_s=3.0),
    Kind("mcp-sdk-1", "mcp1", "mcp_official.py", "mcp", "/mcp", metadata=ACT),
    Kind("mcp-sdk-1-json", "mcp1", "mcp_official.py", "mcp", "/mcp", ("json",), metadata=ACT),
    Kind("mcp-sdk-2", "mcp2", "mcp_official_2.py", "mcp", "/mcp", metadata=ACT),
    Kind("fastmcp", "fastmcp", "mcp_fast.py", "mcp", "/mcp", metadata=ACT),
    Kind("mcp-typescript", "node", "mcp_typescript.mjs", "mcp", "/mcp", metadata=ACT),
    Kind("a2a-js", "node", "a2a_typescript.mjs", "a2a"),
    Kind("a2a-js-rest", "node", "a2a_typescript.mjs", "a2a", arguments=REST),
    Kind("litserve", "litserve", "openai_litserve.py", "openai", "/v1", (), MODEL, False, 3.0, is_found=False),
    Kind(
        "litserve-stream",
        "litserve",
        "openai_litserve.py",
        "openai",
        "/v1",
        (),
        MODEL | STREAM,
        False,
        3.0,
        is_found=False,
    ),
    Kind("grpcio", "grpc", "grpc_agent.py", "grpc", scheme="grpc"),
]
