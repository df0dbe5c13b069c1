// The strip at the top: seven figures of the last ten seconds, each with its last ten minutes.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { isNumber, number, share, span } from "./format.js";
import { Spark } from "./chart.js";
import { useSlices } from "./parts.js";

export function Now({ store }) {
  useSlices(store, "now");
  const { series, metrics } = store;
  const last = (name) => series[name].at(-1) ?? null;
  const tile = (name, text, label, title, options = {}) => html`<div class="tile ${options.alarm ? "alarm" : ""}" title=${title}>
    <dt>${label}</dt><dd data-figure=${name}>${text}</dd>
    <dd class="line"><${Spark} at=${series.at} values=${series[name]} top=${options.top} tone=${options.tone} /></dd>
  </div>`;
  const whole = (name) => (isNumber(last(name)) ? String(last(name)) : "–");
  return html`<section aria-labelledby="now-title">
    <h2 id="now-title" class="unseen">Now</h2>
    <dl class="strip" aria-busy=${metrics === null}>
      ${tile("rate", number(last("rate")), "tasks/s", "Tasks that ended, a second, over the last 10 s")}
      ${tile("success", share(last("success")), "success", "Completed among those that completed, failed or expired in the last 10 s", { top: 1 })}
      ${tile("p50", span(last("p50")), "p50", "Half of the answered tasks took less, last 10 s")}
      ${tile("p95", span(last("p95")), "p95", "19 of 20 answered tasks took less, last 10 s")}
      ${tile("failures", number(last("failures")), "failures/s", "Tasks that failed or expired, a second, over the last 10 s", { tone: "bad", alarm: last("failures") > 0 })}
      ${tile("circuits", whole("circuits"), "circuits open", "Agents whose circuit is open or half-open", { tone: "bad", alarm: last("circuits") > 0 })}
      ${tile("anomalies", whole("anomalies"), "anomalies", "Anomalies that are firing", { tone: "bad", alarm: last("anomalies") > 0 })}
    </dl>
  </section>`;
}
