// Server-sent events over fetch: unlike EventSource it can say why it was refused, and can go on from where it was after a pause.
// In: a URL. Out: `heard(name, data)` for each message, `turned(state, why)`. Bounded: one connection, one message's text.

import { access } from "./access.js";
import { parse } from "./format.js";

const MOST_CHARACTERS = 16 * 1024 * 1024;
const SILENCE_MS = 40_000; // the worker says something at least every 15 s
const SLOWEST_MS = 15_000;

export class Stream {
  #url; #heard; #turned; #id = ""; #abort = null; #timer = 0; #watch = 0; #failures = 0; #wanted = false;

  constructor(url, heard, turned) {
    this.#url = url;
    this.#heard = heard;
    this.#turned = turned;
  }

  start() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#run();
  }

  /** Let go of the connection; `start` goes on after the last message that was heard. */
  stop() {
    this.#wanted = false;
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  async #run() {
    const abort = (this.#abort = new AbortController());
    let why = "the connection ended";
    try {
      const shown = access.headers();
      const headers = { Accept: "text/event-stream", ...shown, ...(this.#id && { "Last-Event-ID": this.#id }) };
      this.#alive();
      const answer = await fetch(this.#url, { headers, signal: abort.signal, cache: "no-store" });
      if (answer.ok) await this.#read(answer.body);
      else {
        why = await reason(answer);
        if (answer.status === 401) access.refuse(shown);
      }
    } catch (error) {
      if (error instanceof Broken) why = error.message;
      else why = "the worker does not answer";
    }
    abort.abort();
    if (this.#abort !== abort) return;
    clearTimeout(this.#watch);
    if (!this.#wanted) return;
    this.#turned("reconnecting", why);
    const pause = Math.min(SLOWEST_MS, 500 * 2 ** this.#failures++) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#run(), pause);
  }

  #alive() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#abort?.abort(), SILENCE_MS);
  }

  async #read(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let message = { name: "message", data: [], id: null };
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.#alive();
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      if (rest.length > MOST_CHARACTERS) throw new Broken("the worker sent a message that is too large");
      for (const line of lines) {
        if (line !== "") take(message, line);
        else {
          this.#dispatch(message);
          message = { name: "message", data: [], id: null };
        }
      }
    }
  }

  #dispatch(message) {
    if (message.id !== null) this.#id = message.id;
    if (message.data.length === 0) return;
    let data;
    try {
      data = parse(message.data.join("\n"));
    } catch {
      throw new Broken("the worker sent what is no JSON");
    }
    if (message.name === "hello") {
      this.#failures = 0;
      this.#turned("live", "");
    }
    this.#heard(message.name, data);
  }
}

class Broken extends Error {}

function take(message, line) {
  const at = line.indexOf(":");
  if (at === 0) return;
  const field = at < 0 ? line : line.slice(0, at);
  const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
  if (field === "event") message.name = value;
  else if (field === "data") message.data.push(value);
  else if (field === "id" && !value.includes("\0")) message.id = value;
}

async function reason(answer) {
  try {
    return String((await answer.json()).error);
  } catch {
    return `the worker answers ${answer.status}`;
  }
}
