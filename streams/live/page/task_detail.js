// One task or plan: what happened when, what came of it, and how to ask for the same in a terminal.

import { html, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { Act, NoActions, newId, useMayAct } from "./actions.js";
import { command, cut, epoch, ratio, span, time, when } from "./format.js";
import { Chip, Command, Copy, Facts, Failure, Json, usePoll, useSlices } from "./parts.js";
import { PlanGraph } from "./plan_graph.js";
import { Poll, pathOf } from "./poll.js";

const UNDER_WAY = ["running", "parked", "queued", "retrying", "waiting", "unknown"];
const LOOK_BACK = { "1h": "24h", "24h": "168h" };
const MOST_EVENTS = 200;
const SHOWN_ELSEWHERE = ["taskId", "type", "result"]; // of an event's data

export function TaskDetail({ id, store }) {
  useSlices(store, "tasks");
  const [since, look] = useState("1h");
  const row = store.rows.get(`task ${id}`);
  const asked = useRef(0); // each question is a search through topics: ever more seldom
  const every = (data) => (data && !UNDER_WAY.includes(data.status) ? 600_000 : Math.min(30_000, 3000 * 1.5 ** asked.current++));
  const path = () => pathOf("/api/v1/tasks/", id, since === "1h" ? "" : `?since=${since}`);
  // When the stream tells of its end, it is asked for again.
  const poll = usePoll((draw) => Object.assign(new Poll(path, every, draw), { since }), [id, since, row?.ended]);
  const { data, failure } = poll?.since === since ? poll : {}; // an answer about another time says nothing
  const line = command("task", id);
  return html`<div>
    <p class="chips"><${Chip} word=${data?.status ?? row?.status ?? "unknown"} />${row?.note ? html` <span class="note">${row.note}</span>` : null}</p>
    <div class="tools"><${Copy} text=${id} label="Copy id" /><${Copy} text=${location.href} label="Copy link" /></div>
    ${line ? html`<${Command} line=${line + store.options} />` : html`<p class="quiet">This id holds characters that must not be pasted into a shell.</p>`}
    ${!data && !failure ? html`<p class="quiet" role="status">Looking through the topics…</p>` : null}
    <${Failure} failure=${failure} old=${Boolean(data)} />
    ${failure && LOOK_BACK[since] && failure.status === 404 ? html`<button type="button" onClick=${() => look(LOOK_BACK[since])}>Look back ${LOOK_BACK[since] === "24h" ? "24 hours" : "7 days"}</button>` : null}
    ${data ? html`<${TaskActions} id=${id} data=${data} since=${since} soon=${() => poll.soon(1000)} />` : null}
    ${data?.waiting ? html`<${Waiting} waiting=${data.waiting} />` : null}
    ${data ? html`<${Outcome} result=${data.result} /><${Timeline} events=${data.events ?? []} />` : null}
  </div>`;
}

/** Cancel while it has no result, retry once it failed. */
function TaskActions({ id, data, since, soon }) {
  const may = useMayAct();
  const again = useRef(null);
  again.current ??= newId(); // a second click after an answer that was lost makes no second task
  const failed = data.result && data.result.status !== "success";
  if (data.result && !failed) return null;
  if (!may) return html`<${NoActions} />`;
  if (failed)
    return html`<${Act} key="retry" label="Retry" question="Send this task again under a new id?" yes="Yes, retry" path=${pathOf("/api/v1/tasks/", id, "/retry")}
      body=${{ id: again.current, since: LOOK_BACK[since] ?? since }} done=${(said) => html`Sent again as <a class="id" href=${`#task=${encodeURIComponent(said.taskId)}`}>${said.taskId}</a>.`} />`;
  return html`<${Act} key="cancel" label="Cancel" question="Cancel this task?" yes="Yes, cancel" path=${pathOf("/api/v1/tasks/", id, "/cancel")}
    body=${{ reason: "cancelled on the live page" }} done=${() => "Asked. The result shows whether it came in time."} then=${soon} />`;
}

function Waiting({ waiting }) {
  const { reason, agentId, since, until, deadline, attempts, maxAttempts, failure } = waiting;
  const at = (value) => (epoch(value) === null ? "–" : html`<span title=${when(epoch(value))}>${time(epoch(value))}</span>`);
  return html`<h3>Waits for</h3>
    <${Facts} rows=${[
      ["Reason", String(reason).replaceAll("_", " ")],
      ["Agent", agentId ? html`<a class="id" href=${`#agent=${encodeURIComponent(agentId)}`}>${agentId}</a>` : "–"],
      ["Since", at(since)],
      ["Until", at(until)],
      ["Deadline", at(deadline)],
      ["Attempts", maxAttempts ? `${attempts} of ${maxAttempts}` : "–"],
    ]} />
    ${failure ? html`<p class="notice"><strong>${failure.code}</strong>: ${cut(failure.message, 500)}</p>` : null}`;
}

function Outcome({ result }) {
  if (!result) return html`<p class="empty">It has no result yet.</p>`;
  return html`<h3>Result</h3>
    <${Facts} rows=${[
      ["Agent", result.agentId ? html`<a class="id" href=${`#agent=${encodeURIComponent(result.agentId)}`}>${result.agentId}</a>` : "–"],
      ["Confidence", ratio(result.confidence)],
      ["Took", span(result.executionTime)],
      ["Retries", String(result.retries ?? "–")],
      ["Cached", result.cached ? "yes" : "no"],
    ]} />
    ${result.error ? html`<p class="notice"><strong>${result.error.code}</strong>: ${cut(result.error.message, 2000)}</p>` : null}
    ${result.result === undefined ? null : html`<${Json} value=${result.result} label="Result as JSON" />`}
    <details><summary>The whole record</summary><${Json} value=${result} label="Record as JSON" /></details>`;
}

function Timeline({ events }) {
  const rows = events.slice(0, MOST_EVENTS).map((event) => ({ ...event, at: epoch(event.timestamp) })).sort((a, b) => a.at - b.at);
  if (!rows.length) return html`<p class="empty">No event of it is on the topic any more.</p>`;
  const [first, last] = [rows[0].at, rows.at(-1).at];
  const place = (ms) => (last > first ? ((ms - first) / (last - first)) * 100 : 0);
  return html`<h3>Events</h3><p class="quiet">${rows.length > 1 ? `${rows.length} in ${span(last - first)}` : "one"}${events.length > MOST_EVENTS ? `, the first of ${events.length}` : ""}</p>
  <ol class="timeline">${rows.map((row, n) => {
    const gap = n ? row.at - rows[n - 1].at : 0;
    return html`<li key=${row.id}>
      <div class="moment"><span title=${when(row.at)}>${time(row.at, true)}</span><strong>${row.type}</strong><span class="gap">${n ? `+${span(gap)}` : ""}</span></div>
      <svg class="track" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><path class="base" d="M0 2H100" /><path class="line" d=${`M${n ? place(rows[n - 1].at) : 0} 2H${Math.max(place(row.at), 0.5)}`} /></svg>
      <div class="note">${about(row.data ?? {})}</div>
    </li>`;
  })}</ol>`;
}

/** The data of an event in a line. */
function about(data) {
  const parts = Object.entries(data).filter(([name, value]) => !SHOWN_ELSEWHERE.includes(name) && value !== null);
  return parts.map(([name, value]) => (name === "error" && value?.code ? `${value.code}: ${cut(value.message, 300)}` : `${name} ${cut(shown(name, value), 200)}`)).join(" · ");
}

function shown(name, value) {
  if (name === "delay" || name === "executionTime") return span(value);
  return typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(3) : value;
}

function CancelPlan({ id, soon }) {
  if (!useMayAct()) return html`<${NoActions} />`;
  return html`<${Act} label="Cancel" question="Cancel this plan, with its steps that have not ended?" yes="Yes, cancel" path=${pathOf("/api/v1/plans/", id, "/cancel")}
    body=${{ reason: "cancelled on the live page" }} done=${() => "Asked. The plan's status shows whether it came in time."} then=${soon} />`;
}

export function PlanDetail({ id, store }) {
  useSlices(store, "tasks");
  const row = store.rows.get(`plan ${id}`);
  const poll = usePoll((draw) => new Poll(() => pathOf("/api/v1/plans/", id), (data) => (row?.ended ? 600_000 : 3000), draw), [id, row?.ended]);
  const line = command("plan", id);
  return html`<div>
    <p class="chips"><${Chip} word=${row?.status || poll?.data?.status || "unknown"} /></p>
    <div class="tools"><${Copy} text=${id} label="Copy id" /></div>
    ${line ? html`<${Command} line=${line + store.options} />` : null}
    <${Failure} failure=${poll?.failure} old=${Boolean(poll?.data)} />
    ${poll?.data && !row?.ended && UNDER_WAY.includes(poll.data.status) ? html`<${CancelPlan} id=${id} soon=${() => poll.soon(1000)} />` : null}
    ${poll?.data ? html`<${PlanGraph} plan=${poll.data} /><details><summary>The whole plan</summary><${Json} value=${poll.data} label="Plan as JSON" /></details>` : null}
  </div>`;
}
