// An MCP server on the official TypeScript SDK, with sessions. The tool asks whether the client lives before it answers.
import { randomUUID } from "node:crypto";
import { createMcpExpressApp } from "@modelcontextprotocol/sdk/server/express.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { EmptyResultSchema } from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";
import { ANSWER, act } from "./act.mjs";

function build() {
  const server = new McpServer({ name: "real", version: "1" });
  const output = { value: z.string(), confidence: z.number(), why: z.string() };
  server.registerTool("act", { inputSchema: { task: z.string().optional() }, outputSchema: output }, async ({ task }, extra) => {
    await act(task, extra.signal);
    await extra.sendRequest({ method: "ping" }, EmptyResultSchema);
    return { structuredContent: ANSWER, content: [{ type: "text", text: JSON.stringify(ANSWER) }] };
  });
  server.registerTool("delete_all", {}, () => ({ content: [{ type: "text", text: "deleted" }] }));
  return server;
}

const sessions = new Map();
const app = createMcpExpressApp();
app.all("/mcp", async (request, response) => {
  const known = sessions.get(request.headers["mcp-session-id"]);
  if (known) return known.handleRequest(request, response, request.body);
  if (request.body?.method !== "initialize") {
    const error = { code: -32000, message: "Bad Request: No valid session ID provided" };
    return response.status(400).json({ jsonrpc: "2.0", error, id: null });
  }
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  await build().connect(transport);
  return transport.handleRequest(request, response, request.body);
});
app.listen();
