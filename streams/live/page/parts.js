// Small pieces every view uses: table frame, chips, copying, notices, hooks. Text goes in as text nodes only.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { pretty } from "./format.js";
import { sentence } from "./poll.js";

/** Draw again whenever one of these slices of the store has changed, from the moment that they are read (a layout effect). */
export function useSlices(store, ...slices) {
  const [, draw] = useState(0);
  useLayoutEffect(() => {
    const stops = slices.map((slice) => store.on(slice, () => draw((n) => n + 1)));
    return () => stops.forEach((stop) => stop());
  }, slices);
}

const TONES = {
  closed: "good", healthy: "good", success: "good", live: "good",
  open: "bad", unhealthy: "bad", failure: "bad", timeout: "bad", "dead letter": "bad", high: "bad",
  "half-open": "warn", parked: "warn", retrying: "warn", medium: "warn", duplicate: "quiet", cancelled: "quiet", low: "quiet",
  reconnecting: "warn", connecting: "quiet", running: "busy", queued: "busy",
};

/** A state: a dot and its word, so that colour is never all there is. */
export function Chip({ word, title }) {
  return html`<span class="chip ${TONES[word] ?? "quiet"}" title=${title}><span class="dot" aria-hidden="true"></span>${word}</span>`;
}

/** A table that scrolls by itself where it must; `columns`: [{head, title?, num?, wide?}]. */
export function Table({ label, columns, children, tall, kind }) {
  return html`<div class="scroll ${tall ? "tall" : ""}" role="group" aria-label=${label} tabindex="0"><table class=${kind}>
    <caption class="unseen">${label}</caption>
    <thead><tr>${columns.map(
      ({ head, title, num, wide }) =>
        html`<th scope="col" class="${num ? "num" : ""} ${wide ?? ""}" title=${title}>${head}</th>`,
    )}</tr></thead>
    <tbody>${children}</tbody>
  </table></div>`;
}

/** Why a part cannot be shown, in place. `old`: what is shown beneath is from before. */
export function Failure({ failure, old }) {
  if (!failure) return null;
  return html`<p class="notice">${sentence(failure)}${old ? " What is shown is from before." : ""}</p>`;
}

/** A line to type, with a button that copies it. */
export function Command({ line, label = "Copy" }) {
  return html`<div class="command"><code class="line" tabindex="0">${line}</code><${Copy} text=${line} label=${label} /></div>`;
}

export function Copy({ text, label, about }) {
  const [done, say] = useState("");
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch {
      say("Not allowed; select it");
    }
    clearTimeout(timer.current);
    timer.current = setTimeout(() => say(""), 1800);
  };
  return html`<button type="button" class="small" onClick=${copy} aria-label=${about}>${done || label}</button>`;
}

export function Json({ value, label }) {
  return html`<pre class="json" tabindex="0" role="group" aria-label=${label}>${pretty(value)}</pre>`;
}

/** Figures as pairs: [[name, value, title?]]. */
export function Facts({ rows }) {
  return html`<dl class="facts">${rows.map(
    ([name, value, title]) => html`<div title=${title}><dt>${name}</dt><dd>${value}</dd></div>`,
  )}</dl>`;
}

/** The width an element has now. */
export function useWidth(first = 480) {
  const place = useRef(null);
  const [width, set] = useState(first);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => set(Math.round(entry.contentRect.width)));
    watch.observe(place.current);
    return () => watch.disconnect();
  }, []);
  return [place, width];
}

/** Ask with a poll while the element is there. `path`: changes begin anew. */
export function usePoll(make, keys) {
  const [, draw] = useState(0);
  const poll = useRef(null);
  useLayoutEffect(() => {
    poll.current = make(() => draw((n) => n + 1)).start();
    draw((n) => n + 1);
    return () => poll.current.stop();
  }, keys);
  return poll.current;
}
