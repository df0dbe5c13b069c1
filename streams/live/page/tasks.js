// The table of tasks as their events come in, newest first; it can be filtered and held still.

import { Component, html, useState } from "./vendor/htm-preact-3.1.1.js";
import { cut, number, time, when } from "./format.js";
import { Chip, Command, Table, useSlices } from "./parts.js";
import { MOST_TASKS } from "./store.js";

const COLUMNS = [
  { head: "Id" },
  { head: "Status" },
  { head: "Agent", wide: "middle", title: "From events; the task's detail shows more" },
  { head: "Last event", wide: "wide" },
  { head: "Time", num: true },
];
const GROUPS = {
  all: ["All", () => true],
  going: ["Under way", (row) => row.ended === null],
  success: ["Succeeded", (row) => row.status === "success"],
  failure: ["Failed", (row) => ["failure", "timeout", "dead letter"].includes(row.status)],
  parked: ["Parked", (row) => row.status === "parked"],
  cancelled: ["Cancelled", (row) => row.status === "cancelled"],
  plans: ["Plans", (row) => row.kind === "plan"],
};
const EXAMPLE = `echo '{"id":"t1","type":"agent","target":"summarizer","payload":{"task":"summarize","data":{"text":"..."}}}' | parallax submit - --wait`;

function matches(row, wanted) {
  return !wanted || `${row.id}\n${row.agent}\n${row.type}\n${row.status}\n${row.note}`.toLowerCase().includes(wanted);
}

export function Tasks({ store, open }) {
  useSlices(store, "tasks");
  const [group, setGroup] = useState("all");
  const [text, setText] = useState("");
  const [held, hold] = useState(null); // {rows, events} while paused
  const rows = held ? held.rows : [...store.rows.values()].reverse();
  const wanted = text.trim().toLowerCase();
  const found = rows.filter((row) => GROUPS[group][1](row) && matches(row, wanted));
  const missed = held ? store.taskEvents - held.events : 0;
  const pause = () => hold(held ? null : { rows, events: store.taskEvents });
  const shown = group === "all" && !wanted ? `the last ${number(rows.length)}` : `${number(found.length)} of the last ${number(rows.length)}`;
  return html`<section aria-labelledby="tasks-title" class="tasks">
    <div class="head"><h2 id="tasks-title">Tasks <span class="count">${rows.length ? shown : ""}</span></h2>
      ${rows.length ? html`<div class="tools">
        <label>Status <select value=${group} onChange=${(event) => setGroup(event.target.value)}>${Object.entries(GROUPS).map(([value, [name]]) => html`<option value=${value}>${name}</option>`)}</select></label>
        <label>Find <input type="search" value=${text} onInput=${(event) => setText(event.target.value)} placeholder="id, agent, error" /></label>
        <button type="button" aria-pressed=${held !== null} onClick=${pause}>${held ? `Go on${missed ? ` (${number(missed)} new events)` : ""}` : "Pause"}</button>
      </div>` : null}
    </div>
    ${rows.length === 0 ? html`<div class="empty"><p>No task has passed while this page was open, and none shortly before. Send one:</p><${Command} line=${EXAMPLE + store.options} /></div>` : null}
    ${rows.length && !found.length ? html`<p class="empty">None of the last ${number(rows.length)} tasks is like that. The page keeps ${number(MOST_TASKS)}; <code>parallax task ID</code> finds older ones.${text.trim() ? html` <a href=${`#task=${encodeURIComponent(text.trim())}`}>Look for the task “${cut(text.trim(), 60)}” on the topics</a>` : null}</p>` : null}
    ${found.length ? html`<${Table} label="Tasks" kind="steady" columns=${COLUMNS} tall=${true}>${found.map((row) => html`<${Row} key=${row.key} row=${row} open=${open === row.key} />`)}<//>` : null}
  </section>`;
}

/** One row; drawn again only when its task has changed. */
class Row extends Component {
  shouldComponentUpdate(next) {
    return next.row !== this.props.row || next.open !== this.props.open;
  }

  render({ row, open }) {
    const href = `#${row.kind}=${encodeURIComponent(row.id)}`;
    return html`<tr class=${open ? "chosen" : ""} data-task=${row.id} onClick=${(event) => event.target.closest("a") || (location.hash = href)}>
      <th scope="row"><a class="id clamp" title=${row.id} href=${href}>${row.id}</a>${row.kind === "plan" ? html` <span class="quiet">plan</span>` : null}</th>
      <td><div class="status-cell"><${Chip} word=${row.status} /><span class="note" title=${row.note}>${row.note}</span></div></td>
      <td class="middle"><span class="id">${row.agent}</span></td>
      <td class="wide quiet">${row.type}</td>
      <td class="num" title=${when(row.at)}>${time(row.at)}</td>
    </tr>`;
  }
}
