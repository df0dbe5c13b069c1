// The page: header, strip, tables, and beside them the detail that the address names (#agent=, #agent=&with=,
// #task=, #plan=, #letter=, #letters=recent).

import { html, render, useLayoutEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { number } from "./format.js";
import { AgentDetail } from "./agent_detail.js";
import { Agents } from "./agents.js";
import { Anomalies } from "./anomalies.js";
import { Feed } from "./feed.js";
import { LetterDetail, Letters } from "./letters.js";
import { Login, Whoami, useAccess } from "./login.js";
import { Now } from "./now.js";
import { Chip, useSlices } from "./parts.js";
import { Pipeline } from "./pipeline.js";
import { Store } from "./store.js";
import { PlanDetail, TaskDetail } from "./task_detail.js";
import { Tasks } from "./tasks.js";

const KINDS = { agent: "Agent", task: "Task", plan: "Plan", letter: "Dead letter", letters: "Dead letters" };
const ANNOUNCE_MS = 8000;

/** What the address names: {kind, id, other}, or null. `other`: the agent that it is compared with. */
function addressed() {
  const [, kind, raw, other] = /^#([a-z]+)=(.+?)(?:&with=(.+))?$/s.exec(location.hash) ?? [];
  if (!(kind in KINDS)) return null;
  try {
    return { kind, id: decodeURIComponent(raw), other: other && decodeURIComponent(other) };
  } catch {
    return null;
  }
}

function close() {
  history.pushState(null, "", location.pathname + location.search);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

function useAddress() {
  const [address, set] = useState(addressed);
  useLayoutEffect(() => {
    const turn = () => set(addressed());
    addEventListener("hashchange", turn);
    addEventListener("popstate", turn);
    return () => {
      removeEventListener("hashchange", turn);
      removeEventListener("popstate", turn);
    };
  }, []);
  return address;
}

/** Whether the window is too narrow for the detail to stand beside the tables. */
function useNarrow() {
  const [narrow, set] = useState(() => matchMedia("(max-width: 1099px)").matches);
  useLayoutEffect(() => {
    const query = matchMedia("(max-width: 1099px)");
    const turn = () => set(query.matches);
    query.addEventListener("change", turn);
    return () => query.removeEventListener("change", turn);
  }, []);
  return narrow;
}

function App({ store, feed }) {
  const address = useAddress();
  const narrow = useNarrow();
  const { asks, hasToken, about } = useAccess();
  const open = (kind) => (address?.kind === kind ? address.id : null);
  const row = address && address.kind !== "agent" ? `${address.kind} ${address.id}` : null;
  if (asks) return html`<div class="page"><div class="covered"><${Header} store=${store} feed=${feed} /><main><${Login} /></main></div></div>`;
  return html`<div class="page ${address ? "with-detail" : ""}">
    <div class="covered" inert=${Boolean(address && narrow)}>
      <${Header} store=${store} feed=${feed} />
      <main>
        <${Now} store=${store} />
        <div class="pair">
          <${Agents} store=${store} poll=${feed.agents} figures=${feed.figures} open=${open("agent")} />
          <${Anomalies} store=${store} poll=${feed.anomalies} />
        </div>
        <${Tasks} store=${store} open=${row} />
        <${Pipeline} store=${store} poll=${feed.partitions} />
      </main>
      <footer>${hasToken ? null : html`<a href="/metrics">Metrics</a> <a href="/api/v1/agents">Agents as JSON</a>`} <a href="#letters=recent">Dead letters</a> <a href="/page/vendor/VENDOR.md">Licences</a> <span>${about?.power === "operate" ? "Details offer to cancel, retry and replay." : "Read only with this token."}</span></footer>
    </div>
    ${address ? html`<${Detail} key=${`${address.kind} ${address.id}`} address=${address} store=${store} feed=${feed} />` : null}
  </div>`;
}

function Header({ store, feed }) {
  useSlices(store, "connection", "polls");
  const { asks } = useAccess();
  const { state, why } = store.connection;
  const checks = feed.ready.data?.checks ?? {};
  const missing = Object.entries(checks).filter(([, ok]) => !ok).map(([name]) => name);
  const away = missing.includes("broker") ? "the worker does not reach the broker" : missing.length ? `not ready yet: ${missing.join(", ")}` : "";
  return html`<header>
    <h1>Parallax Streams <span class="quiet">${location.host}</span></h1>
    <div class="status">
      ${away && state === "live" ? html`<span class="notice-inline">${away}</span>` : null}
      ${store.dropped ? html`<span class="quiet" title="More events than this page could be sent; the figures above the tables count them all">${number(store.dropped)} events not shown</span>` : null}
      ${!asks && state !== "live" && why ? html`<span class="quiet">${why}</span>` : null}
      <${Whoami} />
      ${asks ? null : html`<span id="connection"><${Chip} word=${state} /></span>`}
    </div>
  </header>`;
}

const BODIES = { agent: AgentDetail, task: TaskDetail, plan: PlanDetail, letter: LetterDetail, letters: Letters };

function Detail({ address: { kind, id, other }, store, feed }) {
  const title = useRef(null);
  // Before it is painted: who sees the detail can close it, however late the next frame is.
  useLayoutEffect(() => {
    const before = document.activeElement;
    title.current.focus({ preventScroll: true });
    const escape = (event) => event.key === "Escape" && !event.defaultPrevented && event.target.type !== "search" && close();
    addEventListener("keydown", escape);
    return () => {
      removeEventListener("keydown", escape);
      if (!addressed() && before?.isConnected) setTimeout(() => before.focus({ preventScroll: true }));
    };
  }, []);
  return html`<aside class="detail" aria-labelledby="detail-title">
    <div class="head"><h2 id="detail-title" tabindex="-1" ref=${title}><span class="kind">${KINDS[kind]}</span> <span class="id">${id}</span></h2>
      <button type="button" class="close" onClick=${close} aria-label="Close the detail">Close</button></div>
    <${BODIES[kind]} id=${id} other=${other} store=${store} agents=${feed.agents} />
  </aside>`;
}

/** A polite word for screen readers, seldom. */
function announcer() {
  const place = document.createElement("p");
  place.className = "unseen";
  place.setAttribute("role", "status");
  document.body.append(place);
  let next = 0;
  return (text) => {
    if (Date.now() < next) return;
    next = Date.now() + ANNOUNCE_MS;
    place.textContent = text;
  };
}

const store = new Store();
const feed = new Feed(store, announcer());
const root = document.getElementById("app");
root.textContent = "";
render(html`<${App} store=${store} feed=${feed} />`, root);
feed.start();
