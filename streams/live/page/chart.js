// Lines as SVG: they follow the colour scheme by themselves and are sharp at every size. In: numbers and times. No data is markup.

import { html, useState } from "./vendor/htm-preact-3.1.1.js";
import { number, ratio, share, time } from "./format.js";
import { useWidth } from "./parts.js";

const SPARK_MS = 600_000;

/** Ten minutes as a line; a gap where nothing is known. Says nothing that the figure beside it does not: hidden from readers. */
export function Spark({ at, values, top, tone = "" }) {
  const [width, height] = [100, 24];
  const end = at.length ? at[at.length - 1] : 0;
  const most = Math.max(top ?? 0, ...values.map((value) => value ?? 0)) || 1;
  const points = values.map((value, n) => [width - ((end - at[n]) / SPARK_MS) * width, value === null ? null : height - 2 - (value / most) * (height - 4)]);
  return html`<svg class="spark ${tone}" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
    <path class="base" d="M0 ${height - 1.5}H${width}" vector-effect="non-scaling-stroke" />
    <path class="line" d=${line(points)} vector-effect="non-scaling-stroke" />
  </svg>`;
}

/** [[x, y or null]] as a path. */
function line(points) {
  let path = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (y === null) pen = "M";
    else {
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
  }
  return path;
}

const [LEFT, RIGHT, TOP, LOW, HEIGHT] = [34, 8, 10, 20, 180];
const MINUTE_MS = 60_000;

/** Confidence (mean and one standard deviation) and share of successes by minute, with marks where something turned. */
export function ConfidenceChart({ windows, marks, now }) {
  const [place, width] = useWidth();
  const [near, point] = useState(null);
  const rows = windows.map((w) => ({ ...w, at: Date.parse(w.windowStart) + MINUTE_MS / 2 }));
  const end = Math.max(now, ...rows.map((row) => row.at));
  const begin = Math.min(end - 15 * MINUTE_MS, Math.max(end - 60 * MINUTE_MS, rows.length ? rows[0].at - MINUTE_MS : 0));
  const inner = Math.max(60, width - LEFT - RIGHT);
  const x = (ms) => LEFT + ((ms - begin) / (end - begin)) * inner;
  const y = (value) => TOP + (1 - Math.min(1, Math.max(0, value))) * (HEIGHT - TOP - LOW);
  const seen = rows.filter((row) => row.at >= begin);
  const pieces = runs(seen);
  const shown = seen.find((row) => row.windowStart === near) ?? seen.at(-1);
  const hover = (event) => {
    const at = begin + ((event.offsetX - LEFT) / inner) * (end - begin);
    const found = seen.reduce((best, row) => (!best || Math.abs(row.at - at) < Math.abs(best.at - at) ? row : best), null);
    point(found?.windowStart ?? null);
  };
  return html`<figure class="chart" ref=${place}>
    <svg width=${width} height=${HEIGHT} role="img" aria-label="Confidence by minute; the same as a table below" onMouseMove=${hover} onMouseLeave=${() => point(null)}>
      ${[0, 0.25, 0.5, 0.75, 1].map((v) => html`<g><path class="grid" d="M${LEFT} ${y(v)}H${width - RIGHT}" /><text class="tick" x=${LEFT - 6} y=${y(v) + 4} text-anchor="end">${v}</text></g>`)}
      ${hours(begin, end, inner).filter((ms) => x(ms) < width - RIGHT - 16).map((ms) => html`<text class="tick" x=${x(ms)} y=${HEIGHT - 5} text-anchor="middle">${time(ms).slice(0, 5)}</text>`)}
      ${pieces.map((piece) => html`<g>
        <path class="band" d=${band(piece, x, y)} />
        <path class="second" d=${line(piece.map((row) => [x(row.at), y(row.successRate)]))} />
        <path class="first" d=${line(piece.map((row) => [x(row.at), y(row.avgConfidence)]))} />
      </g>`)}
      ${seen.map((row) => html`<circle class="first" cx=${x(row.at)} cy=${y(row.avgConfidence)} r=${row === shown && near ? 4 : 2} />`)}
      ${marks.filter((mark) => mark.at >= begin && mark.at <= end).map((mark) => html`<g class="mark ${mark.type.replace(":", "-")}">
        <path d="M${x(mark.at)} ${TOP}V${HEIGHT - LOW}" /><path d="M${x(mark.at) - 4} ${TOP - 6}h8l-4 7z" />
        <title>${`${time(mark.at)} ${mark.type}${mark.text ? `: ${mark.text}` : ""}`}</title></g>`)}
    </svg>
    <figcaption>
      <span class="key first">confidence</span> <span class="key second">share of successes</span>
      ${marks.length ? html`<span class="key mark">anomaly or circuit</span>` : null}
      <span class="reading">${shown ? `${time(Date.parse(shown.windowStart)).slice(0, 5)}: ${ratio(shown.avgConfidence)} ± ${ratio(Math.sqrt(shown.variance ?? 0))}, ${share(shown.successRate)}, ${number(shown.count)} points` : ""}</span>
    </figcaption>
  </figure>`;
}

/** Minutes that follow each other; a line across a silence would be an invention. */
function runs(rows) {
  const found = [];
  for (const row of rows) {
    const last = found.at(-1);
    if (last && row.at - last.at(-1).at <= 2.5 * MINUTE_MS) last.push(row);
    else found.push([row]);
  }
  return found;
}

function band(piece, x, y) {
  const spread = (row) => Math.sqrt(Math.max(0, row.variance ?? 0));
  const upper = piece.map((row) => `${x(row.at).toFixed(1)} ${y(row.avgConfidence + spread(row)).toFixed(1)}`);
  const lower = piece.map((row) => `${x(row.at).toFixed(1)} ${y(row.avgConfidence - spread(row)).toFixed(1)}`).reverse();
  return `M${[...upper, ...lower].join("L")}Z`;
}

/** Round times for the axis, as many as there is room for. */
function hours(begin, end, inner) {
  const room = Math.max(2, Math.floor(inner / 70));
  const step = [1, 2, 5, 10, 15, 30, 60].find((minutes) => (end - begin) / (minutes * MINUTE_MS) <= room) ?? 60;
  const found = [];
  for (let ms = Math.ceil(begin / (step * MINUTE_MS)) * step * MINUTE_MS; ms <= end; ms += step * MINUTE_MS) found.push(ms);
  return found;
}
