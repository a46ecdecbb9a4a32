// Checks and formats: names of topics, refusals, JSON.

import { text } from "./dom.js";

export const TOPIC_RULE = "A topic has 1 to 200 characters of A-Z a-z 0-9 . _ ~ : @ - and no empty part between dots.";
export const isTopic = (name) => name.length <= 200 && /^[\w~:@-]+(\.[\w~:@-]+)*$/.test(name);

export async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  return `Refused (${answer.status}). ${text(problem?.detail) || answer.statusText}`;
}

export function parsed(json) {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return undefined;
  }
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
