// The token for a broker that needs one. Only this tab keeps it, and no address that is shown contains it.

import { $ } from "./dom.js";

const KEY = "broker token";

const token = () => sessionStorage.getItem(KEY) ?? "";

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
  sessionStorage.setItem(KEY, $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
}

export const refusedToken = (answer) => {
  if (answer.status === 401) askForToken(token() ? "The broker does not accept this token, or no longer accepts it." : "The broker asks for a token.");
};
