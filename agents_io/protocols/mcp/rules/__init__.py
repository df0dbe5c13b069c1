"""MCP's messages for one tool call. Pure."""
