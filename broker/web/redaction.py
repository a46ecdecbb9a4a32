"""Removes tokens from log lines: a browser's EventSource can't send a header, so its token is in the query."""

from __future__ import annotations

import re

from broker.web.identity import PARAMETER

# Each character of the name may be percent-encoded without changing its meaning.
_NAME = "".join(f"(?:{re.escape(letter)}|%{ord(letter):02x})" for letter in PARAMETER)
_TOKEN = re.compile(rf"({_NAME}=)[^&#\s\"']+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text`, with each token in a query replaced by `…`."""
    return _TOKEN.sub(r"\1…", text)
