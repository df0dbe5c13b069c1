"""Metadata keys of a registration with protocol `mcp`. Pure."""

from __future__ import annotations

from agents_io.protocols.mcp.rules.tool_calls import ToolCall
from agents_io.rules.registrable import JSON_ANSWERS, Key, Registrable
from schemas.messages import AgentRegistration

KEYS = (
    Key("tool", "text", "the tool that the agent is; needed", "the server's only one"),
    Key("argumentsPath", "text", "JMESPath of the arguments in the payload", "the payload"),
)


def _check(agent: AgentRegistration) -> None:
    ToolCall(agent.metadata)


MCP = Registrable((*JSON_ANSWERS, *KEYS), _check, over_http=True)
