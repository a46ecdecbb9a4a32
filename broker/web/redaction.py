"""Removes tokens from what is logged.

A browser's EventSource cannot send a header, so its token is in the query, where anyone who may read a log would find it.
"""

from __future__ import annotations

import re

from broker.web.identity import PARAMETER

# Each character of the name may be percent-encoded without changing its meaning.
_NAME = "".join(f"(?:{re.escape(letter)}|%{ord(letter):02x})" for letter in PARAMETER)
_TOKEN = re.compile(rf"({_NAME}=)[^&#\s\"']+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text`, with each token in a query replaced by `…`."""
    return _TOKEN.sub(r"\1…", text)
