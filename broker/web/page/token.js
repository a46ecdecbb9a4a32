// The token for a broker that needs one. Only this tab keeps it, and no address that is shown contains it.

import { watch } from "./address.js";
import { $ } from "./dom.js";

const KEY = "broker token";

export const currentToken = () => sessionStorage.getItem(KEY) ?? "";

export const authorized = (headers) => (currentToken() ? { ...headers, Authorization: `Bearer ${currentToken()}` } : headers);

export function askForToken(why) {
  $("token-form").hidden = false;
  $("token-hint").textContent = why;
  const topics = $("token-topics"); // of the page for topics
  if (topics) topics.textContent = watch.topics.map((name) => `'${name}'`).join(" --subscribe ");
}

export function takeToken() {
  sessionStorage.setItem(KEY, $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
}

// Asks for a token if an answer's status is about one. `isOver`: it was good until now.
export function refusedToken({ status }, isOver = false) {
  if (isOver) askForToken("With a new token the stream continues from your cursor.");
  else if (status === 401 && currentToken()) askForToken("The broker does not accept this token, or no longer accepts it.");
  else if (status === 401) askForToken("You need a token to read from this broker.");
  else if (status === 403 && currentToken()) askForToken("This token is good, but doesn't allow that. Another one may.");
}
