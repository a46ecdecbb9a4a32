"""The Lua scripts that run on the server: their texts, and the SHA-1 digests by which they are called.

Rules: text only; knows no client and no connection. The head of each script describes its arguments and its reply.

Each script runs atomically. A script can't call another, so shared code precedes it: `state.lua` in all of them, which opens
the store's state (its last id, whether the server went back), `keys.lua` for idempotency keys, `ends.lua` to close topics.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script; `sha` is its name for EVALSHA."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Scripts:
    """All scripts of the package."""

    publish: Script
    read: Script
    delete: Script
    describe: Script
    forget: Script
    close: Script
    lease: Script
    due: Script
    broadcast: Script


def load() -> Scripts:
    """The scripts, read from the package's files."""
    folder = files("broker.stores.redis") / "lua"

    def script(name: str, *preludes: str) -> Script:
        text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in ("state", *preludes, name))
        return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    return Scripts(
        publish=script("publish", "ends", "keys"),
        read=script("read"),
        delete=script("delete"),
        describe=script("describe"),
        forget=script("forget", "keys"),
        close=script("close", "ends"),
        lease=script("lease"),
        due=script("due"),
        broadcast=script("broadcast"),
    )
