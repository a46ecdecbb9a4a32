"""The browser client in engines: its parser in Node, the client in Chromium, and with EventSource in Firefox and WebKit."""
