"""The browser client in engines: its parser in Node, the client in Chromium, and beside EventSource in Firefox and WebKit."""
