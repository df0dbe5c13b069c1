"""An MCP server on the official SDK 1.x. The tool asks whether the client lives before it answers."""

from __future__ import annotations

import json

from guard import OPTIONS, PORT, act, serve
from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("real", host="127.0.0.1", port=PORT, json_response="json" in OPTIONS)


@server.tool(name="act")
async def tool(ctx: Context, task: str = "") -> str:  # type: ignore[type-arg]
    """The commonest shape of a tool: a string, which holds JSON here."""
    await act(task)
    await ctx.session.send_ping()
    return json.dumps({"value": "yes", "confidence": 0.93, "why": "so"})


@server.tool()
async def delete_all(task: str = "") -> str:
    """No capability of the agent that is `act`."""
    return "deleted"


serve(server.streamable_http_app())
