// Tasks from Node, and what comes of them: kafkajs alone, nothing of Parallax. Until Ctrl-C.
//   npm install kafkajs; KAFKA=localhost:9092 node consumer.mjs summarizer 3
import { randomUUID } from "node:crypto";
import { Kafka, logLevel } from "kafkajs";

const [agent = "summarizer", count = "3"] = process.argv.slice(2);
const prefix = process.env.PREFIX ?? "parallax.";
const brokers = (process.env.KAFKA ?? "localhost:9092").split(",");
const kafka = new Kafka({ clientId: "node-example", brokers, logLevel: logLevel.ERROR });

const show = {
  results: ({ taskId, status, confidence, result, error }) =>
    `result ${taskId} ${status} ${error ? `${error.code}: ${error.message}` : `${confidence} ${JSON.stringify(result)}`}`,
  events: ({ type, data }) => `event ${type} ${data.taskId ?? data.agentId ?? ""}`,
  anomalies: ({ type, state, severity, agentId }) => `anomaly ${type} ${state} ${severity} ${agentId}`,
};

// kafkajs reads committed records only by default: without that, a result may be seen that never counted.
// A service keeps one group id for its life, so that it goes on where it stopped.
const consumer = kafka.consumer({ groupId: `node-example-${randomUUID()}`, readUncommitted: false });
await consumer.connect();
await consumer.subscribe({ topics: Object.keys(show).map((name) => prefix + name), fromBeginning: true });
await consumer.run({
  eachMessage: async ({ topic, message }) => {
    if (message.value !== null) console.log(show[topic.slice(prefix.length)](JSON.parse(message.value.toString())));
  },
});

// The agent's id as the key saves a hop; any other works. An id is answered once: sent twice, it is one task.
const producer = kafka.producer();
await producer.connect();
const tasks = Array.from({ length: Number(count) }, (_, n) => ({
  id: randomUUID(), type: "agent", target: agent, payload: { text: `a story from Node, part ${n}` }, metadata: { expiresIn: 600_000 },
}));
await producer.send({ topic: `${prefix}tasks`, acks: -1, messages: tasks.map((task) => ({ key: agent, value: JSON.stringify(task) })) });
for (const { id } of tasks) console.log(`task ${id}`);
await producer.disconnect();

for (const signal of ["SIGINT", "SIGTERM"])
  process.once(signal, () => consumer.disconnect().then(() => process.exit(0)));
