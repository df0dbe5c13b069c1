// The token that a person pasted: kept for this tab alone (sessionStorage), sent as a header, shown nowhere.
// In: a token, and the worker's refusals. Out: headers for every request; `asks` while the worker wants a token.

const KEY = "parallax.token";
const PATH = "/api/v1/access";

class Access {
  asks = false;
  about = null; // {required, power, user} of who is logged in
  #token = stored();
  #listeners = new Set();

  /** Whether this tab sends a token: links that a browser follows by itself carry none. */
  get hasToken() {
    return this.#token !== "";
  }

  headers() {
    return this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
  }

  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The worker answered 401: a request that was sent before the last login says nothing. */
  refuse(sent) {
    if (this.asks || (sent.Authorization ?? "") !== (this.headers().Authorization ?? "")) return;
    this.#become("", null, true);
  }

  /** What is wrong with the token, or null: from then on it is sent. */
  async login(token) {
    if (!/^[\x21-\x7e]+$/.test(token)) return "A token has no spaces and only plain characters.";
    const found = await question({ Authorization: `Bearer ${token}` });
    if (found.error) return found.error;
    this.#become(token, found.about, false);
    return null;
  }

  logout() {
    this.#become("", null, true);
  }

  /** Who this tab is to the worker; asked once, when requests begin. */
  async look() {
    const headers = this.headers();
    const found = await question(headers);
    if (found.status === 401) this.refuse(headers);
    else if (found.about) this.#become(this.#token, found.about, false);
  }

  #become(token, about, asks) {
    [this.#token, this.about, this.asks] = [token, about, asks];
    store(token);
    this.#listeners.forEach((listener) => listener());
  }
}

async function question(headers) {
  try {
    const answer = await fetch(PATH, { headers: { Accept: "application/json", ...headers }, cache: "no-store" });
    const body = await answer.json().catch(() => null);
    if (answer.ok && body) return { about: body };
    const why = answer.status === 401 ? "The worker does not accept this token." : String(body?.error ?? `The worker answers ${answer.status}.`);
    return { error: why, status: answer.status };
  } catch {
    return { error: "The worker does not answer.", status: 0 };
  }
}

// A browser may forbid storage: then the token lasts until the page is loaded again.
function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function store(token) {
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // see above
  }
}

export const access = new Access();
