// An agent that dials in with the official gRPC client for JavaScript. Arguments: the gateway's address, our .proto.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { ANSWER, act } from "./act.mjs";

const [address, proto] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, defaults: true, oneofs: true, includeDirs: [process.env.PROTOS] });
const { AgentGateway } = grpc.loadPackageDefinition(definition).parallax.gateway;
const call = new AgentGateway(address, grpc.credentials.createInsecure()).Connect();
const running = new Map();

async function answer(request_id, { task_id, task_description }) {
  const control = new AbortController();
  running.set(task_id, control);
  try {
    await act(task_description, control.signal);
    const metadata = { why: ANSWER.why };
    call.write({ request_id, task_result: { task_id, value_json: JSON.stringify(ANSWER.value), confidence: 0.93, metadata } });
  } catch (error) {
    call.write({ request_id, task_error: { task_id, error_message: error.message, error_code: "INTERNAL" } });
  }
}

call.on("data", (message) => {
  if (message.payload === "ack") console.log("ACK", message.ack.accepted);
  if (message.payload === "task_request") answer(message.request_id, message.task_request);
  if (message.payload === "cancel_task") running.get(message.cancel_task.task_id)?.abort();
});
call.on("error", (error) => console.log("ERROR", error.message));
call.write({ hello: { agent_id: "javascript", agent_name: "n", capabilities: ["judge"], heartbeat_interval_ms: 1000 } });
setInterval(() => call.write({ heartbeat: { agent_id: "javascript", load: 0, status: "healthy" } }), 1000);
