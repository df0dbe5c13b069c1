// A plan as a graph: its steps in columns, each right of those it needs, and the same as a table. In: a plan as the worker shows it,
// under way (`steps`) or over (`results`). Out: SVG whose text is text nodes. What a step needs is drawn as far as it is known.

import { html } from "./vendor/htm-preact-3.1.1.js";
import { counted, cut, number, ratio, span } from "./format.js";
import { Chip, Table } from "./parts.js";

const MOST_DRAWN = 60;
const MOST_LISTED = 500;
const [WIDE, HIGH, GAP, STEP] = [118, 30, 34, 42]; // of a box; between columns; from row to row
const SYMBOLS = { success: "✓", failure: "✗", timeout: "✗", cancelled: "–", running: "▸", waiting: "·" };
const COLUMNS = [{ head: "Step" }, { head: "Status" }, { head: "Agent", wide: "middle" }, { head: "Confidence", num: true }, { head: "Took", num: true }];

/** [{id, task, status, needs, agent, confidence, took, error}], bounded. */
export function stepsOf(plan) {
  const rows = Array.isArray(plan?.steps) ? plan.steps : Array.isArray(plan?.results) ? plan.results : [];
  return rows.slice(0, MOST_LISTED).map((row, n) => {
    const named = row.dependencies ?? row.metadata?.dependencies;
    const before = plan.kind === "sequential" && n ? [String(rows[n - 1].taskId)] : [];
    return {
      id: String(row.taskId ?? row.id ?? n), task: `${plan.planId}#${n}`, status: String(row.status ?? row.state ?? "unknown"),
      needs: Array.isArray(named) ? named.map(String) : before,
      agent: row.agentId, confidence: row.confidence, took: row.executionTime, error: row.error,
    };
  });
}

/** Where each step stands: column one more than the last it needs, row by turn. A circle, which no plan has, ends at its length. */
export function layout(steps) {
  const columns = new Map(steps.map((step) => [step.id, 0]));
  for (let round = 0; round < steps.length; round++) {
    let moved = false;
    for (const step of steps) {
      const least = Math.max(0, ...step.needs.filter((id) => columns.has(id)).map((id) => columns.get(id) + 1));
      if (least > columns.get(step.id) && least < steps.length) {
        columns.set(step.id, least);
        moved = true;
      }
    }
    if (!moved) break;
  }
  const rows = new Map(); // column -> how many stand in it
  return steps.map((step) => {
    const column = columns.get(step.id);
    const row = rows.get(column) ?? 0;
    rows.set(column, row + 1);
    return { ...step, x: column * (WIDE + GAP) + 1, y: row * STEP + 1 };
  });
}

export function PlanGraph({ plan }) {
  const steps = stepsOf(plan);
  if (!steps.length) return null;
  return html`<h3>Steps</h3>
    ${steps.length <= MOST_DRAWN ? html`<${Picture} steps=${layout(steps)} />` : html`<p class="quiet">${number(steps.length)} steps are too many to draw.</p>`}
    <${Table} label="Steps" columns=${COLUMNS}>${steps.map((step) => html`<tr key=${step.id}>
      <th scope="row"><a class="id clamp" href=${`#task=${encodeURIComponent(step.task)}`} title=${step.task}>${step.id}</a></th>
      <td><div class="status-cell"><${Chip} word=${step.status} />${step.error ? html`<span class="note">${step.error.code}: ${cut(step.error.message, 200)}</span>` : null}</div></td>
      <td class="middle"><span class="id">${step.agent ?? ""}</span></td><td class="num">${ratio(step.confidence)}</td><td class="num">${span(step.took)}</td>
    </tr>`)}<//>`;
}

/** The table beside it says the same to those who cannot see it. */
function Picture({ steps }) {
  const places = new Map(steps.map((step) => [step.id, step]));
  const width = Math.max(...steps.map((step) => step.x)) + WIDE + 1;
  const height = Math.max(...steps.map((step) => step.y)) + HIGH + 1;
  const edges = steps.flatMap((step) => step.needs.filter((id) => places.has(id)).map((id) => [places.get(id), step]));
  return html`<div class="scroll graph" tabindex="0" role="group" aria-label="The plan as a graph">
    <svg width=${width} height=${height} viewBox="0 0 ${width} ${height}" role="img" aria-label=${`${counted(steps.length, "step")}, ${counted(edges.length, "edge")}`}>
      ${edges.map(([from, to]) => {
        const [x, y, u, v] = [from.x + WIDE, from.y + HIGH / 2, to.x, to.y + HIGH / 2];
        return html`<path class="edge" d=${`M${x} ${y}C${x + GAP / 2} ${y} ${u - GAP / 2} ${v} ${u} ${v}`} />`;
      })}
      ${steps.map((step) => html`<g class="node ${step.status in SYMBOLS ? step.status : "waiting"}" data-step=${step.id}>
        <title>${`${step.id}: ${step.status}`}</title>
        <rect x=${step.x} y=${step.y} width=${WIDE} height=${HIGH} rx="5" />
        <text x=${step.x + 8} y=${step.y + 20}>${SYMBOLS[step.status] ?? "·"} ${cut(step.id, 12)}</text>
      </g>`)}
    </svg>
  </div>`;
}
