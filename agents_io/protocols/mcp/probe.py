"""Recognises an MCP server by its list of tools."""

from __future__ import annotations

from agents_io.protocols.mcp.transport import McpTransport
from agents_io.protocols.probing import MAX_BYTES, TIMEOUT_S, Found, asked_agent, listed
from schemas.messages import SecretRef


async def probe(endpoint: str, auth: SecretRef | None) -> Found:
    """The MCP server at the URL. Raises `AgentError`."""
    transport = McpTransport(max_answer_bytes=MAX_BYTES)
    try:
        tools = tuple(
            name
            for name in await transport.tools(asked_agent(endpoint, "mcp", auth), TIMEOUT_S)
            if 0 < len(name) <= 256
        )
    finally:
        await transport.close()
    named = "no tool" if not tools else f"tool {tools[0]}" if len(tools) == 1 else f"tools {listed(tools)}"
    # An agent is one tool: the server's other tools are not its capabilities.
    only = tools if len(tools) == 1 else ()
    return Found(
        "mcp",
        f"an MCP server with {named}",
        capabilities=only,
        metadata={"tool": only[0]} if only else {},
        choices=tools,
        choice="tool",
        choice_is_capability=True,
    )
