// One agent: confidence by minute, figures, what its confidence has been worth, the errors seen meanwhile.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { amount, epoch, isNumber, number, ratio, share, span, time, when } from "./format.js";
import { ConfidenceChart } from "./chart.js";
import { Chip, Facts, Failure, Json, Table, usePoll, useSlices } from "./parts.js";
import { Poll, pathOf } from "./poll.js";
import { circuitOf, healthOf } from "./agents.js";

const HOUR_MS = 3_600_000;
const hourAgo = () => new Date(Date.now() - HOUR_MS).toISOString();
const MINUTES = [{ head: "Minute" }, { head: "Confidence", num: true }, { head: "± deviation", num: true }, { head: "Success", num: true }, { head: "Points", num: true }];
const BINS = [{ head: "Said" }, { head: "Came true", num: true }, { head: "Likely between", num: true }, { head: "Outcomes", num: true }];

export function AgentDetail({ id, store, agents }) {
  useSlices(store, "agents", "polls");
  const windows = usePoll((draw) => new Poll(() => pathOf("/api/v1/agents/", id, `/windows?interval=minute&from=${hourAgo()}`), 10_000, draw), [id]);
  const stats = usePoll((draw) => new Poll(() => pathOf("/api/v1/agents/", id, `/stats?from=${hourAgo()}`), 10_000, draw), [id]);
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
  const trend = isNumber(data.confidenceTrend) ? `${data.confidenceTrend >= 0 ? "+" : "−"}${Math.abs(data.confidenceTrend).toPrecision(2)}/h` : "–";
  return html`<${Failure} failure=${poll.failure} old=${true} /><${Facts} rows=${[
    ["Executions", number(data.totalExecutions)],
    ["Success", share(data.successRate)],
    ["Confidence", ratio(data.avgConfidence), `from ${ratio(data.minConfidence)} to ${ratio(data.maxConfidence)}`],
    ["Trend", trend, "How its confidence changes, an hour; positive is better"],
    ["p50", span(data.p50ExecutionTime)],
    ["p95", span(data.p95ExecutionTime)],
    ["p99", span(data.p99ExecutionTime)],
    ...(data.waitTime ? [["Wait, p95", span(data.waitTime.p95), `Before its first call; ${span(data.waitTime.mean)} on average`]] : []),
    ...(data.totalTokens ? [["Tokens", number(data.totalTokens.sum), `${number(data.totalTokens.mean)} an answer, 95 of 100 at most ${number(data.totalTokens.p95)}`]] : []),
    ...(data.cost ? [["Cost", amount(data.cost.sum), `${amount(data.cost.mean)} an answer, 95 of 100 at most ${amount(data.cost.p95)}`]] : []),
    ["Brier", ratio(data.brier), "Mean squared distance between confidence and success; 0 is best"],
  ]} />
  <h3>Calibration</h3><${Calibration} found=${data.calibration} />`;
}

function Calibration({ found }) {
  if (!found) return html`<p class="empty">No outcome is known. Tell how answers turned out with <code>parallax feedback</code>, and this shows what the agent's confidence is worth.</p>`;
  return html`<p class="quiet">${number(found.count)} outcomes; it says ${ratio(Math.abs(found.gap))} ${found.gap >= 0 ? "more" : "less"} than comes true; mean error ${ratio(found.calibrationError)}</p>
  <${Table} label="Calibration" columns=${BINS}>${(found.bins ?? []).filter((bin) => bin.count).map((bin, n) => html`<tr key=${n}><th scope="row">${ratio(bin.confidence)}</th><td class="num">${share(bin.successRate)}</td><td class="num">${bin.interval.map(share).join(" and ")}</td><td class="num">${number(bin.count)}</td></tr>`)}<//>`;
}
