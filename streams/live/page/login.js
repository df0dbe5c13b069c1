// What stands in place of the tables while the worker asks for a token. In: what is pasted. Out: `access.login`.

import { html, useLayoutEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { access } from "./access.js";

/** Draw again after each login and logout. A layout effect: the first refusal may come before the first paint. */
export function useAccess() {
  const [, draw] = useState(0);
  useLayoutEffect(() => access.on(() => draw((n) => n + 1)), []);
  return access;
}

export function Login() {
  const [why, say] = useState("");
  const [busy, wait] = useState(false);
  const field = useRef(null);
  useLayoutEffect(() => field.current.focus(), []);
  const submit = async (event) => {
    event.preventDefault();
    wait(true);
    const wrong = await access.login(field.current.value.trim());
    wait(false);
    if (wrong === null) return;
    say(wrong);
    field.current.select();
  };
  return html`<section class="login" aria-labelledby="login-title">
    <div class="head"><h2 id="login-title">Log in</h2></div>
    <form onSubmit=${submit}>
      <p>This worker asks for a token: one of <code>web_auth.view_tokens</code> or <code>web_auth.operate_tokens</code>. This tab keeps it until it is closed.</p>
      <label for="token">Token</label>
      <input id="token" type="password" autocomplete="off" spellcheck="false" required ref=${field} aria-describedby="login-error" />
      <button type="submit" disabled=${busy}>Log in</button>
      <p id="login-error" class=${why ? "notice" : ""} role="alert">${why}</p>
    </form>
  </section>`;
}

/** Who is logged in, and the way out. Nothing where the worker asks for no token. */
export function Whoami() {
  const { about, hasToken } = useAccess();
  if (!about?.required) return null;
  const who = about.user ? `${about.user}, ${about.power}` : `token: ${about.power}`;
  return html`<span class="quiet" id="whoami">${who}</span>
    ${hasToken ? html`<button type="button" onClick=${() => access.logout()}>Log out</button>` : null}`;
}
