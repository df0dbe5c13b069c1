// What the page knows: built from events and metrics as they come. Every collection has a bound. No markup, no requests here.
// In: messages of the stream. Out: fields to read, `tick(slice)` to the subscribers, at most five times a second a slice.

import { cut, epoch, isNumber } from "./format.js";

export const MOST_TASKS = 500;
const MOST_IDS = 6000; // of events seen, so that a reconnect brings nothing twice
const MOST_AGENTS = 300; // with notes
const MOST_NOTES = 10; // errors an agent, the newest
const MOST_MARKS = 60; // turns of circuit and anomalies an agent
const MOST_ANOMALIES = 500;
const SAMPLES = 600; // ten minutes, one a second
const REDRAW_MS = 200;

const ENDS = {
  "task:completed": "success",
  "task:failed": "failure",
  "task:expired": "timeout",
  "task:cancelled": "cancelled",
  "task:dead-lettered": "dead letter",
  "plan:completed": "success",
  "plan:failed": "failure",
};
const WAYS = {
  "task:started": "running",
  "task:retrying": "retrying",
  "task:cache-hit": "running",
  "task:parked": "parked",
  "plan:started": "running",
  "plan:progress": "running",
};
const CIRCUITS = { "circuit:open": "open", "circuit:half-open": "half_open", "circuit:close": "closed" };

/** A Map that forgets its oldest entries. */
class Bounded extends Map {
  constructor(most) {
    super();
    this.most = most;
  }
  set(key, value) {
    super.set(key, value);
    if (this.size > this.most) this.delete(this.keys().next().value);
    return this;
  }
}

export class Store {
  connection = { state: "connecting", why: "" };
  options = ""; // the options that commands need to find the same topics
  dropped = 0;
  metrics = null;
  series = { at: [], rate: [], success: [], p50: [], p95: [], failures: [], circuits: [], anomalies: [] };
  rows = new Bounded(MOST_TASKS);
  taskEvents = 0;
  agents = new Bounded(MOST_AGENTS); // id -> {errors, marks}
  circuits = new Bounded(MOST_AGENTS); // id -> {circuit, at}: newer than what was asked for
  episodes = new Bounded(MOST_ANOMALIES); // anomaly id -> {at, details, resolved}
  gauges = () => ({ circuits: null, anomalies: null });
  #seen = new Bounded(MOST_IDS);
  #listeners = new Map();
  #due = new Map();

  /** Subscribe to changes of a slice; returns a function that ends it. */
  on(slice, listener) {
    if (!this.#listeners.has(slice)) this.#listeners.set(slice, new Set());
    this.#listeners.get(slice).add(listener);
    return () => this.#listeners.get(slice).delete(listener);
  }

  tick(slice) {
    if (this.#due.has(slice)) return;
    const tell = () => {
      this.#due.delete(slice);
      for (const listener of this.#listeners.get(slice) ?? []) listener();
    };
    this.#due.set(slice, setTimeout(tell, REDRAW_MS));
  }

  turned(state, why) {
    this.connection = { state, why };
    this.tick("connection");
  }

  /** One message of the stream. Gives back the events that were new. */
  heard(name, data) {
    if (name === "events" && Array.isArray(data)) return this.#events(data);
    if (name === "metrics") this.#measured(data);
    if (name === "dropped") {
      this.dropped += isNumber(data.count) ? data.count : 0;
      this.tick("connection");
    }
    return [];
  }

  #measured(data) {
    this.metrics = data;
    const per = data.perSecond ?? {};
    const failures = (per["task:failed"] ?? 0) + (per["task:expired"] ?? 0);
    const rate = (per["task:completed"] ?? 0) + failures + (per["task:cancelled"] ?? 0);
    const row = {
      at: epoch(data.time) ?? Date.now(), rate, failures,
      success: data.successRate, p50: data.p50Ms, p95: data.p95Ms, ...this.gauges(),
    };
    for (const [name, values] of Object.entries(this.series)) {
      values.push(row[name] ?? null);
      if (values.length > SAMPLES) values.shift();
    }
    this.tick("now");
  }

  #events(events) {
    const fresh = [];
    for (const event of events) {
      if (typeof event?.id !== "string" || typeof event.type !== "string" || this.#seen.has(event.id)) continue;
      this.#seen.set(event.id, true);
      const one = { ...event, data: event.data ?? {}, at: epoch(event.timestamp) ?? Date.now() };
      fresh.push(one);
      this.#one(one);
    }
    return fresh;
  }

  #one(event) {
    const { type, data, at } = event;
    if (type in ENDS || type in WAYS || type.endsWith(":duplicate")) this.#row(event);
    if (type in CIRCUITS) {
      this.circuits.set(data.agentId, { circuit: CIRCUITS[type], at });
      this.#mark(data.agentId, { at, type, text: isNumber(data.failures) ? `${data.failures} failures` : "" });
    }
    if (type.startsWith("anomaly:")) {
      const known = this.episodes.get(data.anomalyId);
      const begun = type === "anomaly:detected";
      this.episodes.set(data.anomalyId, begun ? { at, data, over: known?.over } : { ...known, over: at });
      if (begun) this.#mark(data.agentId, { at, type, text: `${data.type}, ${data.severity}` });
      this.tick("anomalies");
    }
  }

  #notes(id) {
    const notes = this.agents.get(id) ?? { errors: [], marks: [] };
    this.agents.delete(id);
    this.agents.set(id, notes);
    this.tick("agents");
    return notes;
  }

  #mark(id, mark) {
    const notes = this.#notes(id);
    notes.marks = [...notes.marks, mark].slice(-MOST_MARKS);
  }

  #row({ id: eventId, type, data, at }) {
    const letter = type === "task:dead-lettered";
    const id = letter ? `${data.topic}/${data.partition}/${data.offset}` : data.planId && type.startsWith("plan:") ? data.planId : data.taskId;
    if (typeof id !== "string") return;
    const kind = letter ? "letter" : type.startsWith("plan:") ? "plan" : "task";
    const key = `${kind} ${id}`;
    const old = this.rows.get(key) ?? { key, kind, id, agent: "", status: "", ended: null, first: at, note: "", version: 0 };
    const row = { ...old, type, at: Math.max(at, old.at ?? 0), version: old.version + 1 };
    row.agent = data.agentId || data.error?.agentId || (data.type === "agent" && data.target) || old.agent;
    if (type in ENDS) {
      row.status = data.error?.code === "timeout" ? "timeout" : ENDS[type];
      row.ended = at;
      row.note = data.error ? cut(`${data.error.code}: ${data.error.message}`, 300) : letter ? cut(data.reason ?? "", 300) : "";
    } else if (type in WAYS && (old.ended === null || at > old.ended)) {
      row.status = WAYS[type];
      row.ended = null;
      row.note = type === "task:parked" ? cut(data.reason ?? "", 100) : type === "task:retrying" ? `attempt ${data.attempt} failed` : "";
    } else if (!old.status) row.status = "duplicate";
    else row.type = old.type;
    this.rows.set(key, row);
    this.taskEvents += 1;
    if (type === "task:failed" && data.error && row.agent) {
      const notes = this.#notes(row.agent);
      notes.errors = [{ at, task: id, text: row.note, id: eventId }, ...notes.errors].slice(0, MOST_NOTES);
    }
    this.tick("tasks");
  }
}
