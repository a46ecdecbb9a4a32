// Checks and formats: names of topics, refusals, JSON, figures.

import { text } from "./dom.js";

export const TOPIC_RULE = "A topic has 1 to 200 characters of A-Z a-z 0-9 . _ ~ : @ - and no empty part between dots.";
export const isTopic = (name) => name.length <= 200 && /^[\w~:@-]+(\.[\w~:@-]+)*$/.test(name);

export async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  return `Refused (${answer.status}). ${text(problem?.detail) || answer.statusText}`;
}

// Why the connection failed, without the browser's own words ("Failed to fetch"), which differ and say nothing more.
export const plainly = (why) => why.replace(/^(The broker can't be reached): .*(fetch|network|load|module).*$/is, "$1.");

export function parsed(json) {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return undefined;
  }
}

const ESCAPE = /\\u([dD][89abAB][\da-fA-F]{2})\\u([dD][c-fC-F][\da-fA-F]{2})|\\u([\da-fA-F]{4})|\\./g;
const UNPRINTABLE = /[\p{C}\p{Z}"\\]/u;

// JSON with letters in place of the escapes that a serializer for ASCII writes: `\u00fc` is ü. Anything else as it is.
export function readable(json) {
  if (!/^\s*[[{"]/.test(json)) return json;
  return json.replace(ESCAPE, (escape, high, low, code) => {
    const char = high ? String.fromCharCode(parseInt(high, 16), parseInt(low, 16)) : code ? String.fromCharCode(parseInt(code, 16)) : "\\";
    return UNPRINTABLE.test(char) ? escape : char;
  });
}

const JSON_TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|\{\s*\}|\[\s*\]|[{}[\]:,]|[^\s{}[\]:,"]+/g;

// Changes only the white space between tokens: JSON.stringify(JSON.parse()) would round long numbers and drop repeated keys.
// Returns null for anything but a JSON object or array, and if the result would be too large.
export function indented(json) {
  if (!/^\s*[[{]/.test(json) || parsed(json) === undefined) return null;
  let depth = 0;
  let out = "";
  const line = () => `\n${"  ".repeat(depth)}`;
  for (const [token] of json.matchAll(JSON_TOKEN)) {
    if (token === "{" || token === "[") depth += 1;
    if (token === "}" || token === "]") depth -= 1;
    if (depth > 60 || out.length > 2_000_000) return null;
    if (token === "{" || token === "[" || token === ",") out += token + line();
    else if (token === "}" || token === "]") out += line() + token;
    else if (token === ":") out += ": ";
    else out += /^[{[]/.test(token) ? token[0] + token.at(-1) : token; // an empty object or array stays on its line
  }
  return out;
}

// A figure in at most four characters or so: 0.25, 3.1, 42, 1,234, 12.3k, 1.29M.
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export function short(value) {
  if (value >= 10_000) return compact.format(value);
  if (value >= 100 || Number.isInteger(value)) return whole.format(value);
  return value >= 1 ? value.toFixed(1) : value.toFixed(2);
}

export const plural = (n, one, many = `${one}s`) => `${new Intl.NumberFormat("en").format(n)} ${n === 1 ? one : many}`;

// Milliseconds.
export const ms = (value) => (value >= 1000 ? `${(value / 1000).toFixed(1)} s` : value >= 10 ? `${whole.format(value)} ms` : `${value.toFixed(1)} ms`);

// Seconds as the two largest units: 3 d 4 h, 5 min 6 s, 1 h.
export function duration(seconds) {
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0 s";
  let rest = Math.floor(seconds);
  const parts = units.slice(first, first + 2).map(([unit, size]) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    return count ? `${count} ${unit}` : "";
  });
  return parts.filter(Boolean).join(" ");
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];
export function bytes(value) {
  const at = value > 0 ? Math.min(UNITS.length - 1, Math.floor(Math.log(value) / Math.log(1024))) : 0;
  return `${short(value / 1024 ** at)} ${UNITS[at]}`;
}
