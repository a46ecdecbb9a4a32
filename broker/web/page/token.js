// The token that lets this tab in, where the broker asks for one. It is kept for the tab alone, and is in no address that is shown.

import { $ } from "./dom.js";

const KEPT = "broker token";

const token = () => sessionStorage.getItem(KEPT) ?? "";

export const authorized = (headers) => (token() ? { ...headers, Authorization: `Bearer ${token()}` } : headers);

// An EventSource can't send a header.
export function withToken(url) {
  return token() ? `${url}&${new URLSearchParams({ access_token: token() })}` : url;
}

export function askForToken(why) {
  $("token-form").hidden = false;
  $("token-hint").textContent = why;
}

export function takeToken() {
  sessionStorage.setItem(KEPT, $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
}

export const refusedToken = (answer) => {
  if (answer.status === 401) askForToken(token() ? "The broker doesn't take this token (any more)." : "The broker asks for a token.");
};
