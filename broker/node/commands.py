"""The commands that instances send each other, as text. `stores.base.Broadcast` carries them.

Rules: values and their text only; `instances` carries them out. Instances of several versions run side by side during
an upgrade, so a command that this version doesn't know decodes to None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the streams of a subject or of a topic; the other one is None. `at` distinguishes two such commands."""

    at: float
    subject: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Refuse a token by its id, or all tokens that a subject got up to `at`, and end their streams.

    The revocation may be forgotten at `until`. Both are seconds since 1970.
    """

    at: float
    until: float
    token_id: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask the producer that streams to `topic` to stop. `at` (seconds since 1970) distinguishes two such commands."""

    topic: str
    at: float


@dataclass(frozen=True, slots=True)
class ShowStats:
    """Publish figures for a while, because `_stats` has a subscriber. `at` (seconds since 1970) distinguishes two such commands."""

    at: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Answer the question `question`, of a kind that `questions` knows, from its arguments."""

    question: str
    kind: str
    about: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """One instance's answer to a question: a JSON value."""

    question: str
    value: Any  # mypyc makes no field of `object`


Command = Disconnect | Revoke | Cancel | ShowStats | Ask | Answer

MAX_KIND_CHARS = 40

_CLASSES: dict[str, type[Command]] = {
    "disconnect": Disconnect,
    "revoke": Revoke,
    "cancel": Cancel,
    "show-stats": ShowStats,
    "ask": Ask,
    "answer": Answer,
}
_NAMES = {command: name for name, command in _CLASSES.items()}


def encode(command: Command) -> str:
    """One line of JSON."""
    values = {field.name: getattr(command, field.name) for field in fields(command)}
    return json.dumps({"do": _NAMES[type(command)], **values})


def kind_of(text: str) -> str:
    """The kind of a command, perhaps of another version: a short text; empty without one."""
    try:
        return str(json.loads(text)["do"])[:MAX_KIND_CHARS]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def decode(text: str) -> Command | None:
    """The command that `encode` wrote, or None if this version doesn't know it."""
    try:
        value = json.loads(text)
        return _CLASSES[value.pop("do")](**value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
