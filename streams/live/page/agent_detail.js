// One agent: confidence by minute, figures, what its confidence has been worth, the errors seen meanwhile.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { epoch, number, ratio, share, time, when } from "./format.js";
import { Calibration } from "./calibration.js";
import { ConfidenceChart } from "./chart.js";
import { Compare } from "./comparison.js";
import { figuresOf, useMinutes, useStats } from "./figures.js";
import { Chip, Facts, Failure, Json, Table, useSlices } from "./parts.js";
import { circuitOf, healthOf } from "./agents.js";

const MINUTES = [{ head: "Minute" }, { head: "Confidence", num: true }, { head: "± deviation", num: true }, { head: "Success", num: true }, { head: "Points", num: true }];

export function AgentDetail({ id, other, store, agents }) {
  useSlices(store, "agents", "polls");
  const windows = useMinutes(id);
  const stats = useStats(id);
  const agent = agents.data?.find((one) => one.id === id);
  const notes = store.agents.get(id) ?? { errors: [], marks: [] };
  const rows = windows?.data ?? [];
  return html`<div>
    ${agent ? html`<${Standing} agent=${agent} store=${store} />` : agents.data ? html`<p class="notice">No agent of this id is registered (any more), as far as this worker knows.</p>` : null}
    <h3>Confidence, last hour</h3>
    <${Failure} failure=${windows?.failure} old=${rows.length > 0} />
    ${rows.length ? html`<${ConfidenceChart} windows=${rows} marks=${notes.marks} now=${Date.now()} />
      <details><summary>As a table</summary><${Table} label="Confidence by minute" columns=${MINUTES} tall=${true}>${[...rows].reverse().map((row) => html`<tr key=${row.windowStart}>
        <th scope="row">${time(epoch(row.windowStart)).slice(0, 5)}</th><td class="num">${ratio(row.avgConfidence)}</td><td class="num">${ratio(Math.sqrt(row.variance ?? 0))}</td><td class="num">${share(row.successRate)}</td><td class="num">${number(row.count)}</td></tr>`)}<//></details>` : null}
    ${windows?.data && !rows.length ? html`<p class="empty">No answer in the last hour.</p>` : null}
    <h3>Figures, last hour</h3>
    <${Figures} poll=${stats} />
    <${Compare} id=${id} other=${other} stats=${stats} store=${store} agents=${agents} />
    <h3>Last errors seen here</h3>
    ${notes.errors.length ? html`<ul class="errors">${notes.errors.map((error) => html`<li key=${error.id}><span class="quiet" title=${when(error.at)}>${time(error.at)}</span> <a class="id" href=${`#task=${encodeURIComponent(error.task)}`}>${error.task}</a><div class="note">${error.text}</div></li>`)}</ul>` : html`<p class="empty">None since this page was opened.</p>`}
    ${agent ? html`<details><summary>Registration</summary><${Json} value=${agent} label="Registration as JSON" /></details>` : null}
  </div>`;
}

function Standing({ agent, store }) {
  const { standing } = agent;
  const until = epoch(standing?.openUntil);
  const ejected = epoch(standing?.ejectedUntil);
  return html`<p class="chips"><${Chip} word=${circuitOf(agent, store)} /> <${Chip} word=${healthOf(agent)} />
    ${until && until > Date.now() ? html`<span class="quiet">no calls until ${time(until)}</span>` : null}
    ${ejected && ejected > Date.now() ? html`<span class="quiet">ejected until ${time(ejected)}</span>` : null}</p>
  <p class="quiet wrap">${agent.endpoint}${agent.capabilities?.length ? ` · ${agent.capabilities.slice(0, 20).join(", ")}` : ""}</p>`;
}

function Figures({ poll }) {
  const data = poll?.data;
  if (poll?.failure?.status === 404) return html`<p class="empty">No execution in the last hour.</p>`;
  if (!data) return html`<${Failure} failure=${poll?.failure} />`;
  return html`<${Failure} failure=${poll.failure} old=${true} /><${Facts} rows=${figuresOf(data)} />
  <h3>Calibration</h3><${Calibration} found=${data.calibration} />`;
}
