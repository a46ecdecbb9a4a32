"""What instances tell each other beside events, as text: `stores.base.Store.tell` carries it.

Rules: words only; heeding is the node's. One that this version doesn't know is None: instances of several versions run
side by side during an upgrade.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the streams of a subject, or of a topic; the one that isn't meant is None; `at` tells two times apart."""

    at: float
    subject: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Refuse a token by its id, or all that a subject was given up to `at`; and end their streams.

    It may be forgotten at `until`. Both are seconds since 1970.
    """

    at: float
    until: float
    token_id: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask whoever publishes a stream to `topic` to stop; `at` (seconds since 1970) tells two times apart."""

    topic: str
    at: float


Notice = Disconnect | Revoke | Cancel

_KINDS: dict[str, type[Disconnect | Revoke | Cancel]] = {
    "disconnect": Disconnect,
    "revoke": Revoke,
    "cancel": Cancel,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(notice: Notice) -> str:
    """One line of JSON."""
    return json.dumps({"do": _NAMES[type(notice)], **asdict(notice)})


def decode(text: str) -> Notice | None:
    """The notice that `encode` wrote, or None where no such one is known here."""
    try:
        value = json.loads(text)
        return _KINDS[value.pop("do")](**value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
