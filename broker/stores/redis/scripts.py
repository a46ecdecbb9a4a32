"""The Lua scripts that run inside the server: their texts, and the SHA1s by which they are called.

Rules: text only; knows no client and no connection. What a script takes and answers stands at the head of its file.

Each is atomic, and all begin alike: `state.lua` opens the store's state (its last id, whether the server went back) and
stands in front of every other text, as `keys.lua` does where idempotency keys are needed, and `ends.lua` where topics end: a
script can't call another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server gets it; `sha` is what EVALSHA calls it by."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Scripts:
    """All there are."""

    publish: Script
    read: Script
    delete: Script
    describe: Script
    forget: Script
    close: Script
    lease: Script
    due: Script


def load() -> Scripts:
    """Read the texts from the package."""
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
    )
