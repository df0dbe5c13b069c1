// Buttons that change something: each asks once more before it acts. In: a path, a body, words. Out: what the worker answered.
// Shown only to those whose token may operate; the worker refuses all others by itself.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { access } from "./access.js";
import { useAccess } from "./login.js";
import { sentence } from "./poll.js";

const TIMEOUT_MS = 40_000; // longer than the worker takes for one

/** An id for a task that is sent again; the worker answers an id once, so a request may be repeated. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function post(path, body) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  const shown = access.headers();
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json", ...shown },
      body: JSON.stringify(body),
      cache: "no-store",
      signal: limit,
    });
    const said = await answer.json().catch(() => null);
    if (answer.status === 401) access.refuse(shown);
    return answer.ok && said !== null ? { data: said } : { error: String(said?.error ?? `the worker answers ${answer.status}`), status: answer.status };
  } catch {
    return { error: limit.aborted ? "the worker took too long to answer" : "the worker does not answer", status: 0 };
  }
}

/** Whether this tab may act. */
export function useMayAct() {
  return useAccess().about?.power === "operate";
}

/** Why there are no buttons. */
export function NoActions() {
  return html`<p class="quiet">To act on it here, log in with an operate token.</p>`;
}

/** `label`: on the button; `question`, `yes`: of the second step; `done(answer)`: what is shown then, markup or text; `then`: called once. */
export function Act({ label, question, yes, path, body, done, then }) {
  const [step, go] = useState("idle"); // idle, asking, busy, done
  const [said, say] = useState(null); // {data} or {error, status}
  const first = useRef(null);
  const second = useRef(null);
  const outcome = useRef(null);
  const alive = useRef(true);
  useEffect(() => () => (alive.current = false), []);
  useLayoutEffect(() => {
    if (step === "asking") second.current?.focus();
  }, [step]);
  const back = () => {
    go("idle");
    setTimeout(() => first.current?.focus());
  };
  const act = async () => {
    go("busy");
    const answer = await post(path, body);
    if (!alive.current) return;
    say(answer);
    if (!answer.data) return back();
    go("done");
    setTimeout(() => outcome.current?.focus());
    then?.();
  };
  if (path === null) return null; // no URL can name it
  const escape = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // the detail stays
    back();
  };
  return html`<div class="act">
    ${step === "idle" ? html`<button type="button" ref=${first} onClick=${() => go("asking")}>${label}</button>` : null}
    ${step === "asking" || step === "busy" ? html`<div class="confirm" role="group" aria-label=${question} onKeyDown=${escape}>
      <span>${question}</span>
      <button type="button" class="sure" ref=${second} disabled=${step === "busy"} onClick=${act}>${step === "busy" ? "Working…" : yes}</button>
      <button type="button" disabled=${step === "busy"} onClick=${back}>No</button>
    </div>` : null}
    <div role="status">${said?.data ? html`<p class="done" tabindex="-1" ref=${outcome}>${done(said.data)}</p>` : null}${said?.error ? html`<p class="notice">${sentence(said)}</p>` : null}</div>
  </div>`;
}
