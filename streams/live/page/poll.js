// JSON of the worker, asked again and again while the page is visible. In: a path. Out: {data, error, status, at}; what was known stays
// when an answer fails. One request at a time, each bounded in time.

import { access } from "./access.js";
import { parse } from "./format.js";

const TIMEOUT_MS = 15_000;

/** A path with an id in it; null for one that no URL can hold. */
export function pathOf(before, id, after = "") {
  return id === "" || id === "." || id === ".." ? null : `${before}${encodeURIComponent(id)}${after}`;
}

/** One answer: {data} or {error, status}. */
export async function ask(path, signal) {
  if (path === null) return { error: "this id cannot be asked for by a URL", status: 400 };
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  const shown = access.headers();
  try {
    const answer = await fetch(path, {
      headers: { Accept: "application/json", ...shown },
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const body = await answer.text().then(parse).catch(() => null);
    if (answer.status === 401) access.refuse(shown);
    if (body !== null && (answer.ok || path === "/readyz")) return { data: body };
    return { error: String(body?.error ?? `the worker answers ${answer.status}`), status: answer.status };
  } catch {
    return { error: limit.aborted ? "the worker took too long to answer" : "the worker does not answer", status: 0 };
  }
}

/** What an error is to the reader: a sentence. */
export function sentence({ error, status }) {
  const said = error.charAt(0).toUpperCase() + error.slice(1);
  if (status === 503 && /\brole\b/.test(error)) return `Not on this worker: ${error}.`;
  return /[.!?]$/.test(said) ? said : `${said}.`;
}

export class Poll {
  #path; #every; #changed; #timer = 0; #busy = false; #again = false; #stopped = true; #abort = null;
  data = null;
  failure = null;

  /** `path`: text, or a function that gives it. `every`: ms, or a function of the data. */
  constructor(path, every, changed) {
    this.#path = typeof path === "function" ? path : () => path;
    this.#every = typeof every === "function" ? every : () => every;
    this.#changed = changed;
  }

  start() {
    if (!this.#stopped) return this;
    this.#stopped = false;
    this.soon(0);
    return this;
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  /** Ask again before its time: something has happened. */
  soon(ms = 300) {
    if (this.#stopped) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#run(), ms);
  }

  async #run() {
    this.#busy = true;
    const abort = (this.#abort = new AbortController());
    const path = this.#path();
    const answer = path === undefined ? { data: null } : await ask(path, abort.signal);
    this.#busy = false;
    if (this.#stopped) return;
    if (abort.signal.aborted) {
      this.soon(0); // stopped and begun again meanwhile: that it did not answer says nothing
      return;
    }
    if ("data" in answer) [this.data, this.failure] = [answer.data, null];
    else this.failure = answer;
    this.#changed();
    this.soon(this.#again ? 500 : this.#every(this.data));
    this.#again = false;
  }
}
