// The partitions this worker owns: how far each is committable, how far that is from its end, what is in flight and what holds it back.

import { html, useState } from "./vendor/htm-preact-3.1.1.js";
import { counted, isNumber, number, span } from "./format.js";
import { Failure, Table, useSlices } from "./parts.js";

const COLUMNS = [
  { head: "Topic" },
  { head: "Partition", num: true },
  { head: "Committable", num: true, wide: "middle", title: "All records before this offset are finished" },
  { head: "Next", num: true, wide: "wide", title: "The next offset to be read" },
  { head: "Lag", num: true, title: "Records before the end of the log that are not finished" },
  { head: "In flight", num: true },
  { head: "What it waits for" },
];
const MOST_SHOWN = 300;
const FEW = 12; // so many are shown whether anything is in flight or not

function blocking(found) {
  if (!found) return "";
  const about = [found.reason];
  if (found.taskId) about.push(`task ${found.taskId}`);
  if (found.agentId) about.push(`agent ${found.agentId}`);
  if (isNumber(found.age)) about.push(`for ${span(found.age)}`);
  return about.filter(Boolean).join(", ");
}

export function Pipeline({ store, poll }) {
  useSlices(store, "polls");
  const [idle, showIdle] = useState(false);
  const rows = poll.data ?? [];
  const shown = idle || rows.length <= FEW ? rows : rows.filter((row) => row.inFlight || row.blocking || row.lag);
  const busy = rows.reduce((sum, row) => sum + row.inFlight, 0);
  const lag = rows.reduce((sum, row) => sum + (isNumber(row.lag) ? row.lag : 0), 0);
  return html`<section aria-labelledby="pipeline-title">
    <div class="head"><h2 id="pipeline-title">Pipeline <span class="count">${poll.data ? `${counted(rows.length, "partition")} here, ${counted(busy, "record")} in flight, lag ${number(lag)}` : ""}</span></h2>
      ${rows.length > FEW ? html`<label><input type="checkbox" checked=${idle} onChange=${(event) => showIdle(event.target.checked)} /> show idle ones</label>` : null}</div>
    <${Failure} failure=${poll.failure} old=${poll.data !== null} />
    ${poll.data && !rows.length ? html`<p class="empty">This worker owns no partition now: it is starting, or others own them all. Each worker shows its own.</p>` : null}
    ${rows.length && !shown.length ? html`<p class="empty">Nothing is in flight: all that was written is finished.</p>` : null}
    ${shown.length ? html`<${Table} label="Partitions of this worker" columns=${COLUMNS} tall=${shown.length > 14}>${shown.slice(0, MOST_SHOWN).map(
      (row) => html`<tr key=${`${row.topic}/${row.partition}`}>
        <th scope="row">${row.topic}</th><td class="num">${row.partition}</td><td class="num middle">${number(row.committable)}</td>
        <td class="num wide">${number(row.next)}</td><td class="num">${isNumber(row.lag) ? number(row.lag) : ""}</td><td class="num">${number(row.inFlight)}</td><td class="note">${blocking(row.blocking)}</td>
      </tr>`,
    )}<//>` : null}
  </section>`;
}
