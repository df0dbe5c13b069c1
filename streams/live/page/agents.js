// The table of agents: how each stands (asked every few seconds, turns of circuits at once) and how it did in the last ten minutes.

import { html, useState } from "./vendor/htm-preact-3.1.1.js";
import { epoch, isNumber, number, ratio, share, span } from "./format.js";
import { Chip, Command, Failure, Table, useSlices } from "./parts.js";

export const MOST_SHOWN = 100; // rows; also the agents whose figures are asked for
const FEW = 25;
const COLUMNS = [
  { head: "Agent" },
  { head: "Protocol", wide: "wide" },
  { head: "Circuit" },
  { head: "Health", wide: "middle" },
  { head: "In flight", num: true, wide: "middle", title: "Tasks that wait for it or are being called" },
  { head: "Success", num: true, title: "Share of successes, last 10 minutes" },
  { head: "p95", num: true, wide: "middle", title: "95th percentile of the time of its calls, last 10 minutes" },
  { head: "Confidence", num: true, title: "Of its recent answers; in brackets what that has been worth, where outcomes are known" },
];

/** The protocol given, or that of the endpoint's scheme. */
function protocol(agent) {
  if (agent.protocol) return agent.protocol;
  const scheme = String(agent.endpoint).split("://")[0];
  return { https: "http", grpcs: "grpc" }[scheme] ?? scheme;
}

/** closed, open or half-open: what was asked for, or the newer event. */
export function circuitOf(agent, store) {
  const event = store.circuits.get(agent.id);
  const asked = epoch(agent.standing?.at) ?? 0;
  const circuit = event && event.at >= asked ? event.circuit : agent.standing?.circuit ?? "closed";
  return circuit === "half_open" ? "half-open" : circuit;
}

export function healthOf(agent) {
  if (!agent.standing) return "unknown";
  return agent.standing.healthy ? "healthy" : "unhealthy";
}

/** By id; where they are many, those that a person should look at come first. */
export function ordered(agents, store) {
  if (agents.length <= FEW) return [...agents].sort((one, two) => (one.id < two.id ? -1 : 1));
  const trouble = (agent) => (circuitOf(agent, store) === "closed" ? 0 : 2) + (healthOf(agent) === "unhealthy" ? 1 : 0);
  return agents.map((agent) => [trouble(agent), agent]).sort(([a, one], [b, two]) => b - a || (one.id < two.id ? -1 : 1)).map(([, agent]) => agent);
}

export function Agents({ store, poll, figures, open }) {
  useSlices(store, "agents", "polls");
  const [text, setText] = useState("");
  const all = ordered(poll.data ?? [], store);
  const wanted = text.trim().toLowerCase();
  const found = wanted ? all.filter((agent) => agent.id.toLowerCase().includes(wanted) || (agent.capabilities ?? []).some((name) => name.toLowerCase().includes(wanted))) : all;
  return html`<section aria-labelledby="agents-title" class="agents">
    <div class="head"><h2 id="agents-title">Agents <span class="count">${poll.data ? number(all.length) : ""}</span></h2>
      ${all.length > 8 ? html`<label>Find <input type="search" value=${text} onInput=${(event) => setText(event.target.value)} placeholder="id or capability" /></label>` : null}
    </div>
    <${Failure} failure=${poll.failure} old=${poll.data !== null} />
    ${poll.data && all.length === 0 ? html`<${NoAgents} options=${store.options} />` : null}
    ${all.length ? html`<${Table} label="Agents" columns=${COLUMNS}>${found.slice(0, MOST_SHOWN).map((agent) => html`<${Row} key=${agent.id} agent=${agent} figures=${figures.get(agent.id)} store=${store} open=${open === agent.id} />`)}<//>` : null}
    ${found.length > MOST_SHOWN ? html`<p class="more">${number(found.length - MOST_SHOWN)} more: find them by id or capability.</p>` : null}
    ${wanted && all.length && !found.length ? html`<p class="empty">No agent has that in its id or capabilities.</p>` : null}
  </section>`;
}

function NoAgents({ options }) {
  return html`<div class="empty"><p>No agent is known here yet. Any HTTP server that answers <code>POST /analyze</code> with a value and a confidence is one:</p>
    <${Command} line=${`parallax agents add summarizer http://127.0.0.1:9000${options}`} /></div>`;
}

function Row({ agent, figures, store, open }) {
  const { standing } = agent;
  const circuit = circuitOf(agent, store);
  const worth = isNumber(standing?.calibratedConfidence) ? ` (${ratio(standing.calibratedConfidence)})` : "";
  const href = `#agent=${encodeURIComponent(agent.id)}`;
  return html`<tr class=${open ? "chosen" : ""} data-agent=${agent.id} onClick=${(event) => event.target.closest("a") || (location.hash = href)}>
    <th scope="row"><a class="id" href=${href}>${agent.id}</a></th>
    <td class="wide">${protocol(agent)}</td>
    <td><${Chip} word=${circuit} title=${standing?.openUntil ? `until ${standing.openUntil}` : ""} /></td>
    <td class="middle"><${Chip} word=${healthOf(agent)} title=${standing?.reason ? `by ${standing.reason}` : ""} /></td>
    <td class="num middle">${number(standing?.load)}</td>
    <td class="num">${figures?.totalExecutions ? share(figures.successRate) : "–"}</td>
    <td class="num middle">${figures?.totalExecutions ? span(figures.p95ExecutionTime) : "–"}</td>
    <td class="num">${ratio(standing?.confidence)}${worth}</td>
  </tr>`;
}
