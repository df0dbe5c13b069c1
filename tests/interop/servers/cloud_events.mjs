// The official CloudEvents SDK for JavaScript. In: Kafka records as JSON lines. Out: what it makes of each; then events of its own.
import { createInterface } from "node:readline";
import { CloudEvent, Kafka } from "cloudevents";

for await (const line of createInterface({ input: process.stdin })) {
  const record = JSON.parse(line);
  if (record.write) {
    const event = new CloudEvent({ ...record.write, datacontenttype: "application/json" });
    const { key, value, headers } = Kafka[record.mode](event);
    const text = typeof value === "string" ? value : JSON.stringify(value);
    console.log(JSON.stringify({ key, value: text, headers }));
    continue;
  }
  const event = Kafka.toEvent(record);
  event.validate();
  const { id, source, type, subject, time, datacontenttype, specversion } = event;
  const data = typeof event.data === "string" ? JSON.parse(event.data) : event.data;
  console.log(JSON.stringify({ id, source, type, subject, time, datacontenttype, specversion, data }));
}
