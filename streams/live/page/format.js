// Values as text. In: what the worker said, of any type. Out: short strings; never markup.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const NONE = "–";

const LONG = /[0-9][0-9.]{15}/;

/** JSON. Numbers that a double cannot hold keep their digits when they are written again, where the browser can do that. */
export function parse(text) {
  if (typeof JSON.rawJSON !== "function" || !LONG.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) => (isLossy(value, context?.source) ? JSON.rawJSON(context.source) : value));
}

function isLossy(value, source) {
  if (typeof value !== "number" || source === undefined) return false;
  if (/^-?[0-9]+$/.test(source)) return !Number.isSafeInteger(value);
  return source.replace(/[eE].*|[-.]/g, "").replace(/^0+/, "").length > 17;
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A count or rate: 3 significant figures below 100, whole above, thousands apart. */
export function number(value) {
  if (!isNumber(value)) return NONE;
  if (Number.isInteger(value) || Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

/** An amount of money, small or large: 3 significant figures below 100. */
export function amount(value) {
  if (!isNumber(value)) return NONE;
  if (value === 0 || value >= 100) return number(value);
  return value >= 0.001 ? String(Number(value.toPrecision(3))) : value.toFixed(6);
}

/** "1 record", "2 records". */
export const counted = (many, what) => `${number(many)} ${what}${many === 1 ? "" : "s"}`;

/** A share as per cent; never "100 %" when something is missing. */
export function share(value) {
  if (!isNumber(value)) return NONE;
  const percent = value * 100;
  if (percent > 99.9 && percent < 100) return "99.9 %";
  return `${percent.toFixed(percent === 100 || percent === 0 ? 0 : 1)} %`;
}

/** A confidence between 0 and 1. */
export const ratio = (value) => (isNumber(value) ? value.toFixed(2) : NONE);

/** Milliseconds as a duration. */
export function span(ms) {
  if (!isNumber(ms)) return NONE;
  const size = Math.abs(ms);
  if (size < 10) return `${ms.toFixed(1)} ms`;
  if (size < 1000) return `${Math.round(ms)} ms`;
  if (size < 60_000) return `${(ms / 1000).toFixed(size < 10_000 ? 1 : 0)} s`;
  if (size < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`;
}

/** Time of day here; `fine` with milliseconds. `ms` of the epoch. */
export function time(ms, fine = false) {
  if (!isNumber(ms)) return NONE;
  const text = clock.format(ms);
  return fine ? `${text}.${String(Math.floor(ms) % 1000).padStart(3, "0")}` : text;
}

/** Date and time, as a title. */
export const when = (ms) => (isNumber(ms) ? `${day.format(ms)}, ${time(ms, true)}` : "");

/** RFC 3339 or epoch milliseconds to milliseconds of the epoch; null for what is none. */
export function epoch(value) {
  const ms = typeof value === "number" ? value : Date.parse(value);
  return Number.isFinite(ms) ? ms : null;
}

/** The begin of a text. */
export function cut(value, most) {
  const text = typeof value === "string" ? value : JSON.stringify(value) ?? "";
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** JSON to read, bounded. */
export function pretty(value, most = 65_536) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  return text.length > most ? `${text.slice(0, most)}\n… ${(text.length - most).toLocaleString("en")} characters more` : text;
}

/** `parallax VERB ID` for a POSIX shell; null for an id that cannot be pasted safely. */
export function command(verb, id) {
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/.test(id)) return null;
  const word = /^[A-Za-z0-9_.:/@%+=,-]+$/.test(id) ? id : `'${id.replaceAll("'", "'\\''")}'`;
  return `parallax ${verb} ${id.startsWith("-") ? "-- " : ""}${word}`;
}
