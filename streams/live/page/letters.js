// Dead letters: what was put aside in the last day, newest first, and one of them with its replay.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { Act, NoActions, useMayAct } from "./actions.js";
import { cut, epoch, number, time, when } from "./format.js";
import { Chip, Command, Facts, Failure, Json, Table, usePoll, useSlices } from "./parts.js";
import { Poll } from "./poll.js";

const HOUR_MS = 3_600_000;
const MOST_LISTED = 200;
const COLUMNS = [{ head: "Record" }, { head: "Why it was put aside" }, { head: "Time", num: true, wide: "middle" }];

export function Letters({ store }) {
  const poll = usePoll((draw) => new Poll(`/api/v1/dead-letters?max=${MOST_LISTED}`, 60_000, draw), []);
  const { data, failure } = poll ?? {};
  return html`<div>
    <p>Records that are no tasks, plans, points or registrations are put aside with their bytes. These came in the last 24 hours, newest first:</p>
    ${!data && !failure ? html`<p class="quiet" role="status">Looking through the dead letters…</p>` : null}
    <${Failure} failure=${failure} old=${Boolean(data)} />
    ${data && !data.length ? html`<p class="empty">None.</p>` : null}
    ${data?.length ? html`<${Table} label="Dead letters" kind="letters" columns=${COLUMNS}>${data.map((letter) => html`<tr key=${letter.place}>
      <th scope="row"><a class="id" href=${`#letter=${encodeURIComponent(letter.place)}`}>${letter.from ?? letter.place}</a></th>
      <td><span title=${letter.reason ?? ""}>${cut(letter.reason ?? "–", 200)}</span></td><td class="num middle" title=${when(epoch(letter.time))}>${time(epoch(letter.time))}</td></tr>`)}<//>` : null}
    ${data?.length === MOST_LISTED ? html`<p class="more">The newest ${number(MOST_LISTED)}; all of them:</p>` : null}
    <${Command} line=${`parallax dlq ls${store.options}`} />
  </div>`;
}

export function LetterDetail({ id, store }) {
  useSlices(store, "tasks");
  const may = useMayAct();
  const row = store.rows.get(`letter ${id}`);
  const begun = row ? `?since=${encodeURIComponent(new Date(row.at - HOUR_MS).toISOString())}` : "";
  const path = `/api/v1/dead-letters/${id.split("/").map(encodeURIComponent).join("/")}`;
  const poll = usePoll((draw) => new Poll(path + begun, 600_000, draw), [id]);
  const { data, failure } = poll ?? {};
  return html`<div>
    <p class="chips"><${Chip} word="dead letter" /> ${row ? html`<span class="quiet">${when(row.at)}</span>` : null}</p>
    <p>A record that is no task or plan was put aside, with its bytes${row || data ? ":" : "."}</p>
    ${row || data ? html`<p class="notice">${data?.reason ?? row.note}</p>` : null}
    <p class="quiet">It came from <span class="id">${data?.from ?? id}</span> (topic, partition, offset). This lists what was put aside and where it lies now:</p>
    <${Command} line=${`parallax dlq ls${store.options}`} />
    ${!data && !failure ? html`<p class="quiet" role="status">Looking through the dead letters…</p>` : null}
    <${Failure} failure=${failure} old=${Boolean(data)} />
    ${data ? html`<${Facts} rows=${[["Lies at", html`<span class="id">${data.place}</span>`], ["Stage", data.stage ?? "–"], ["Bytes", String(data.bytes ?? "–")], ["Replayed before", String(data.replayed)]]} />` : null}
    ${data && !may ? html`<${NoActions} />` : null}
    ${data && may ? html`<${Act} label="Replay" question=${`Send this record back to ${(data.from ?? id).split("/")[0]}?`} yes="Yes, replay" path=${`${path}/replay`}
      body=${row ? { since: new Date(row.at - HOUR_MS).toISOString() } : {}} done=${(said) => `Sent to ${said.to}. If the record is as wrong as before, another dead letter appears.`} />` : null}
    ${data?.value !== undefined && data.value !== null ? html`<h3>Value</h3><${Json} value=${data.value} label="Value of the dead letter" />` : null}
  </div>`;
}
