// What an agent's confidence is worth: how often what it said came true, as a curve and as a table. In: `calibration` of its stats.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { number, ratio, share } from "./format.js";
import { Table } from "./parts.js";

const BINS = [{ head: "Said" }, { head: "Came true", num: true }, { head: "Likely between", num: true }, { head: "Outcomes", num: true }];
const [LEFT, SIZE, LOW, MARGIN] = [34, 180, 20, 8];

export function Calibration({ found }) {
  if (!found) return html`<p class="empty">No outcome is known. Tell how answers turned out with <code>parallax feedback</code>, and this shows what the agent's confidence is worth.</p>`;
  const bins = (found.bins ?? []).filter((bin) => bin.count);
  return html`<p class="quiet">${number(found.count)} outcomes; it says ${ratio(Math.abs(found.gap))} ${found.gap >= 0 ? "more" : "less"} than comes true; mean error ${ratio(found.calibrationError)}</p>
  ${bins.length ? html`<${Curve} bins=${bins} />` : null}
  <${Table} label="Calibration" columns=${BINS}>${bins.map((bin, n) => html`<tr key=${n}><th scope="row">${ratio(bin.confidence)}</th><td class="num">${share(bin.successRate)}</td><td class="num">${bin.interval.map(share).join(" and ")}</td><td class="num">${number(bin.count)}</td></tr>`)}<//>`;
}

/** Confidence to the right, what came true upwards; on the dashed line an agent's word is worth what it says. */
function Curve({ bins }) {
  const x = (value) => LEFT + value * SIZE;
  const y = (value) => MARGIN + (1 - Math.min(1, Math.max(0, value))) * SIZE;
  const points = bins.map((bin) => `${x(bin.confidence).toFixed(1)} ${y(bin.successRate).toFixed(1)}`);
  return html`<figure class="chart calibration">
    <svg width=${LEFT + SIZE + 2 * MARGIN} height=${MARGIN + SIZE + LOW} role="img" aria-label="What came true by what was said; the same as a table below">
      ${[0, 0.5, 1].map((v) => html`<g><path class="grid" d="M${LEFT} ${y(v)}H${x(1)}" /><text class="tick" x=${LEFT - 6} y=${y(v) + 4} text-anchor="end">${v}</text><text class="tick" x=${x(v)} y=${MARGIN + SIZE + LOW - 4} text-anchor="middle">${v}</text></g>`)}
      <path class="second" d="M${x(0)} ${y(0)}L${x(1)} ${y(1)}" />
      ${bins.map((bin) => html`<path class="spread" d="M${x(bin.confidence).toFixed(1)} ${y(bin.interval[0]).toFixed(1)}V${y(bin.interval[1]).toFixed(1)}"><title>${`said ${ratio(bin.confidence)}: ${share(bin.successRate)} came true, of ${number(bin.count)}`}</title></path>`)}
      <path class="first" d=${`M${points.join("L")}`} />
      ${bins.map((bin) => html`<circle class="first" cx=${x(bin.confidence)} cy=${y(bin.successRate)} r="3" />`)}
    </svg>
    <figcaption><span class="key first">came true</span> <span class="key second">as said</span></figcaption>
  </figure>`;
}
