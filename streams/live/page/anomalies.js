// What is firing, how bad, why and since when. The list is asked of the worker; the words come from the events of this page's time.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { counted, epoch, isNumber, number, ratio, time, when } from "./format.js";
import { Chip, Failure, useSlices } from "./parts.js";

const WORDS = {
  sudden_drop: "Confidence dropped",
  low_confidence: "Confidence is low",
  high_variance: "Confidence varies much",
  drift: "Confidence drifts",
  outlier: "An answer far from the others",
  miscalibrated: "Says more than it knows",
  slow: "Slower than it was",
  costly: "Costs more than it did",
  silent: "Nothing heard",
};
const ORDER = { high: 0, medium: 1, low: 2 };
const MOST_SHOWN = 50;

/** Why, in a line. */
function why(row, episode) {
  const details = episode?.data?.details;
  if (!details) return `${isNumber(row.baseline) ? `${ratio(row.baseline)} was normal; ` : ""}fires for ${counted(row.points, "point")}`;
  const parts = [];
  if (isNumber(details.currentConfidence)) parts.push(`confidence ${ratio(details.currentConfidence)}`);
  if (row.type === "high_variance" && isNumber(details.deviation)) parts.push(`standard deviation ${ratio(details.deviation)}`);
  else if (isNumber(details.historicalAverage)) parts.push(`was ${ratio(details.historicalAverage)}`);
  const limit = isNumber(details.threshold) ? `, threshold ${details.threshold}` : "";
  return `${parts.join(", ")} (${[details.detector, details.window].filter(Boolean).join(": ")}${limit})`;
}

export function Anomalies({ store, poll }) {
  useSlices(store, "anomalies", "polls");
  const rows = [...(poll.data ?? [])].sort((a, b) => (ORDER[a.severity] ?? 3) - (ORDER[b.severity] ?? 3) || (a.agentId < b.agentId ? -1 : 1));
  return html`<section aria-labelledby="anomalies-title" class="anomalies">
    <div class="head"><h2 id="anomalies-title">Anomalies <span class="count">${poll.data ? number(rows.length) : ""}</span></h2></div>
    <${Failure} failure=${poll.failure} old=${poll.data !== null} />
    ${poll.data && rows.length === 0 ? html`<p class="empty">Nothing is firing. Detectors watch each agent's confidence, speed and silence once it has answered a few dozen tasks; <code>parallax anomalies --follow</code> tells of them too.</p>` : null}
    <ul class="firing">${rows.slice(0, MOST_SHOWN).map((row) => {
      const episode = store.episodes.get(row.id);
      const since = epoch(row.detectedAt) ?? episode?.at;
      return html`<li key=${row.id} data-anomaly=${row.type}>
        <div><${Chip} word=${row.severity} /> <strong>${WORDS[row.type] ?? row.type}</strong></div>
        <div><a class="id" href=${`#agent=${encodeURIComponent(row.agentId)}`}>${row.agentId}</a>${row.patternName ? html` <span class="quiet">pattern <span class="id">${row.patternName}</span></span>` : null}</div>
        <div class="quiet">${why(row, episode)}</div>
        <div class="quiet" title=${since ? when(since) : ""}>${since ? `since ${time(since)}` : "began before its time was kept"}</div>
      </li>`;
    })}</ul>
    ${rows.length > MOST_SHOWN ? html`<p class="more">${number(rows.length - MOST_SHOWN)} more: <code>parallax anomalies</code></p>` : null}
  </section>`;
}
