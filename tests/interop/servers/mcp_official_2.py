"""An MCP server on the official SDK 2.x."""

from __future__ import annotations

import json

from guard import OPTIONS, act, serve
from mcp.server.mcpserver import MCPServer

server = MCPServer("real")


@server.tool(name="act")
async def tool(task: str = "") -> str:
    """The commonest shape of a tool: a string, which holds JSON here."""
    await act(task)
    return json.dumps({"value": "yes", "confidence": 0.93, "why": "so"})


@server.tool()
async def delete_all(task: str = "") -> str:
    """No capability of the agent that is `act`."""
    return "deleted"


serve(server.streamable_http_app(json_response="json" in OPTIONS))
