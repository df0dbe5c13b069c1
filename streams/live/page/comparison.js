// Two agents beside each other: the same figures of the same hour, and the other one's confidence under the first one's.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { number, ratio } from "./format.js";
import { ConfidenceChart } from "./chart.js";
import { figuresOf, useMinutes, useStats } from "./figures.js";
import { Failure, Table } from "./parts.js";

const MOST_OFFERED = 500;

/** Which agent to compare with. The address names it, so a comparison can be sent as a link. */
export function Compare({ id, other, stats, store, agents }) {
  const ids = (agents.data ?? []).map((agent) => agent.id).filter((one) => one !== id).sort().slice(0, MOST_OFFERED);
  const offered = other && other !== id && !ids.includes(other) ? [other, ...ids] : ids;
  const turn = (event) => (location.hash = `#agent=${encodeURIComponent(id)}${event.target.value ? `&with=${encodeURIComponent(event.target.value)}` : ""}`);
  if (!offered.length) return null;
  return html`<h3>Comparison, last hour</h3>
    <p><label><span class="one-line">Compare with</span> <select value=${other ?? ""} onChange=${turn}><option value="">no other agent</option>${offered.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label></p>
    ${other && other !== id ? html`<${Beside} key=${other} id=${id} other=${other} stats=${stats} store=${store} />` : null}`;
}

function Beside({ id, other, stats, store }) {
  const theirs = useStats(other);
  const windows = useMinutes(other);
  const rows = windows?.data ?? [];
  const columns = [{ head: "Last hour" }, { head: id, num: true }, { head: other, num: true }];
  return html`<${Failure} failure=${failureOf(theirs)} old=${Boolean(theirs?.data)} />
    <${Table} label=${`Figures of ${id} and ${other}`} columns=${columns}>${together(of(stats), of(theirs)).map(([name, mine, its, title]) => html`<tr key=${name} title=${title}><th scope="row">${name}</th><td class="num">${mine}</td><td class="num">${its}</td></tr>`)}<//>
    <h4>Confidence of <span class="id">${other}</span></h4>
    <${Failure} failure=${windows?.failure} old=${rows.length > 0} />
    ${rows.length ? html`<${ConfidenceChart} windows=${rows} marks=${store.agents.get(other)?.marks ?? []} now=${Date.now()} />` : null}
    ${windows?.data && !rows.length ? html`<p class="empty">No answer in the last hour.</p>` : null}`;
}

/** No execution in the last hour is no fault. */
const failureOf = (poll) => (poll?.failure?.status === 404 ? null : poll?.failure);

function of(poll) {
  const data = poll?.failure?.status === 404 ? null : poll?.data;
  if (!data) return [];
  const found = data.calibration;
  return found ? [...figuresOf(data), ["Outcomes known", number(found.count)], ["Says too much", ratio(found.gap), "How much more it says than comes true; negative: less"], ["Calibration error", ratio(found.calibrationError)]] : figuresOf(data);
}

/** [[name, one, other, title]]: what only one of them has stands in its place too. */
function together(one, other) {
  const names = [...new Set([...one, ...other].map(([name]) => name))];
  const value = (rows, name) => rows.find((row) => row[0] === name)?.[1] ?? "–";
  return names.map((name) => [name, value(one, name), value(other, name), [...one, ...other].find((row) => row[0] === name && row[2])?.[2]]);
}
