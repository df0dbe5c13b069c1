"""An MCP server on FastMCP."""

from __future__ import annotations

import json

from fastmcp import FastMCP
from guard import act, serve

server = FastMCP("real")


@server.tool(name="act")
async def tool(task: str = "") -> str:
    """The commonest shape of a tool: a string, which holds JSON here."""
    await act(task)
    return json.dumps({"value": "yes", "confidence": 0.93, "why": "so"})


@server.tool
async def delete_all(task: str = "") -> str:
    """No capability of the agent that is `act`."""
    return "deleted"


serve(server.http_app(path="/mcp"))
