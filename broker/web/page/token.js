// The token for a broker that needs one. Only this tab keeps it, and no address that is shown contains it.

import { $ } from "./dom.js";

const KEY = "broker token";

export const currentToken = () => sessionStorage.getItem(KEY) ?? "";

export const authorized = (headers) => (currentToken() ? { ...headers, Authorization: `Bearer ${currentToken()}` } : headers);

// An EventSource can't send a header.
export function withToken(url) {
  return currentToken() ? `${url}&${new URLSearchParams({ access_token: currentToken() })}` : url;
}

export function askForToken(why) {
  $("token-form").hidden = false;
  $("token-hint").textContent = why;
}

export function takeToken() {
  sessionStorage.setItem(KEY, $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
}

export const refusedToken = (answer) => {
  if (answer.status === 401) askForToken(currentToken() ? "The broker does not accept this token, or no longer accepts it." : "The broker asks for a token.");
};
