// An agent on the official A2A SDK for JavaScript. Option `rest`: HTTP+JSON alone.
import { AGENT_CARD_PATH } from "@a2a-js/sdk";
import { AgentEvent, DefaultRequestHandler, InMemoryTaskStore } from "@a2a-js/sdk/server";
import { UserBuilder, agentCardHandler, jsonRpcHandler, restHandler } from "@a2a-js/sdk/server/express";
import express from "express";
import { ANSWER, act } from "./act.mjs";

const SUBMITTED = 1, WORKING = 2, COMPLETED = 3, FAILED = 4, CANCELED = 5;
const running = new Map();

const executor = {
  async execute({ userMessage, taskId, contextId }, bus) {
    const status = (state, message) => ({ state, message, timestamp: new Date().toISOString() });
    const update = (state, message) => bus.publish(AgentEvent.statusUpdate({ taskId, contextId, status: status(state, message) }));
    bus.publish(AgentEvent.task({ id: taskId, contextId, status: status(SUBMITTED), artifacts: [], history: [userMessage] }));
    update(WORKING);
    const control = new AbortController();
    running.set(taskId, control);
    const text = userMessage.parts.find((part) => part.content?.$case === "text")?.content.value;
    try {
      await act(text, control.signal);
      const part = { content: { $case: "data", value: ANSWER }, filename: "", mediaType: "application/json" };
      const artifact = { artifactId: "a", name: "", description: "", parts: [part], extensions: [] };
      bus.publish(AgentEvent.artifactUpdate({ taskId, contextId, artifact, append: false, lastChunk: true }));
      update(COMPLETED);
    } catch {
      update(control.signal.aborted ? CANCELED : FAILED);
    } finally {
      running.delete(taskId);
      bus.finished();
    }
  },
  async cancelTask(taskId) {
    running.get(taskId)?.abort();
  },
};

const isRest = process.argv.includes("rest");
const url = `http://127.0.0.1:${process.env.PORT}/`;
const card = {
  name: "real",
  description: "d",
  version: "1",
  supportedInterfaces: [{ url, protocolBinding: isRest ? "HTTP+JSON" : "JSONRPC", protocolVersion: "1.0", tenant: "" }],
  capabilities: { streaming: true, pushNotifications: false, extensions: [] },
  securitySchemes: {},
  securityRequirements: [],
  defaultInputModes: ["text/plain"],
  defaultOutputModes: ["text/plain"],
  skills: [{ id: "judge", name: "Judge", description: "d", tags: ["t"], examples: [], inputModes: [], outputModes: [] }],
  signatures: [],
};
const handler = new DefaultRequestHandler(card, new InMemoryTaskStore(), executor);
const app = express();
app.use(`/${AGENT_CARD_PATH}`, agentCardHandler({ agentCardProvider: handler }));
app.use("/", (isRest ? restHandler : jsonRpcHandler)({ requestHandler: handler, userBuilder: UserBuilder.noAuthentication }));
app.listen();
