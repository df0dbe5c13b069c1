// What the page asks of the worker, in one place: the stream and the polls, and when they rest: a hidden page asks nothing.

import { access } from "./access.js";
import { Poll } from "./poll.js";
import { Stream } from "./stream.js";
import { MOST_SHOWN, circuitOf, ordered } from "./agents.js";

const BEGIN_WITH = 500; // recent events, so that the table is not empty at first
const AT_ONCE = 20; // agents in one question for figures
const FIGURES_OF_MS = 600_000;
const NEWS_MS = 30_000; // older events are not read out
const PLAIN = /^[A-Za-z0-9.,:_[\]-]+$/;
const HIDDEN_MS = 20_000; // a tab in the background this long lets go of the worker

export class Feed {
  figures = new Map();
  #turn = 0;
  #resting = 0;

  constructor(store, announce) {
    this.store = store;
    this.announce = announce;
    const changed = () => store.tick("polls");
    // Thousands of agents are megabytes: asked for less often.
    this.agents = new Poll("/api/v1/agents", (data) => 4000 + (data?.length ?? 0) * 5, () => this.#known());
    this.anomalies = new Poll("/api/v1/anomalies?state=firing", 10_000, changed);
    this.partitions = new Poll("/api/v1/partitions", 3000, changed);
    this.ready = new Poll("/readyz", 10_000, () => store.tick("connection"));
    this.compare = new Poll(() => this.#question(), () => (this.#chunks() > 1 ? 4000 : 8000), () => this.#answered());
    this.stream = new Stream(`/api/v1/stream?last=${BEGIN_WITH}`, (name, data) => this.#heard(name, data), (state, why) => store.turned(state, why));
    this.about = new Poll("/", 600_000, () => this.#onAbout());
    store.gauges = () => this.#gauges();
  }

  start() {
    document.addEventListener("visibilitychange", () => this.#looked());
    access.on(() => this.#admitted());
    // First alone: a token that is wrong by now must not be shown by every request at once.
    access.look().then(() => this.#go());
  }

  get #all() {
    return [this.agents, this.anomalies, this.partitions, this.ready, this.compare, this.about, this.stream];
  }

  /** A login or logout: without a token that the worker requires, nothing is asked. */
  #admitted() {
    if (access.asks) this.#all.forEach((one) => one.stop());
    else if (!document.hidden) this.#go();
  }

  #go() {
    if (access.asks) return;
    for (const one of this.#all) one.start();
  }

  #looked() {
    clearTimeout(this.#resting);
    if (!document.hidden) this.#go();
    else this.#resting = setTimeout(() => this.#all.forEach((one) => one.stop()), HIDDEN_MS);
  }

  #heard(name, data) {
    const events = this.store.heard(name, data);
    const kinds = new Set(events.map(({ type }) => type.split(":")[0]));
    if (kinds.has("circuit") || kinds.has("agent")) this.agents.soon();
    if (kinds.has("anomaly")) this.anomalies.soon();
    for (const event of events) {
      if (Date.now() - event.at > NEWS_MS) continue;
      if (event.type === "circuit:open") this.announce(`The circuit of ${event.data.agentId} is open.`);
      if (event.type === "anomaly:detected") this.announce(`Anomaly of ${event.data.agentId}: ${event.data.type}.`);
    }
  }

  /** Commands in a terminal must find the same topics as this worker. */
  #onAbout() {
    const { bootstrapServers = "", topicPrefix = "" } = this.about.data ?? {};
    let options = "";
    if (PLAIN.test(bootstrapServers) && bootstrapServers !== "localhost:9092") options += ` --bootstrap-servers ${bootstrapServers}`;
    if (PLAIN.test(topicPrefix) && topicPrefix !== "parallax.") options += ` --topic-prefix ${topicPrefix}`;
    this.store.options = options;
    this.store.tick("polls");
    this.store.tick("tasks");
  }

  #known() {
    if (this.figures.size === 0 && this.agents.data?.length) this.compare.soon(0);
    this.store.tick("polls");
  }

  #gauges() {
    const agents = this.agents.data;
    return {
      circuits: agents ? agents.filter((agent) => circuitOf(agent, this.store) !== "closed").length : null,
      anomalies: this.anomalies.data ? this.anomalies.data.length : null,
    };
  }

  #shown() {
    return ordered(this.agents.data ?? [], this.store).slice(0, MOST_SHOWN).map((agent) => agent.id).filter((id) => !id.includes(","));
  }

  #chunks() {
    return Math.ceil(this.#shown().length / AT_ONCE);
  }

  #question() {
    const ids = this.#shown();
    if (!ids.length) return undefined;
    this.#turn = (this.#turn + 1) % this.#chunks();
    const some = ids.slice(this.#turn * AT_ONCE, (this.#turn + 1) * AT_ONCE);
    const from = new Date(Date.now() - FIGURES_OF_MS).toISOString();
    return `/api/v1/compare?from=${from}&agents=${some.map(encodeURIComponent).join(",")}`;
  }

  #answered() {
    for (const row of this.compare.data ?? []) {
      this.figures.delete(row.agentId);
      this.figures.set(row.agentId, row);
    }
    while (this.figures.size > 2 * MOST_SHOWN) this.figures.delete(this.figures.keys().next().value);
    this.store.tick("agents");
  }
}
