"""What an event of the broker's stream is to who subscribed: an event with its topic, a gap, the end of a topic, or nothing.

Rules: values in, values out; the forms are those of contract §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.client.errors import json_object
from broker.client.words import Gap
from broker.events import Event


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing will follow on `topic`; `reason` is `closed`, `deleted` or `abandoned`."""

    topic: str
    reason: str


def meaning(event: Event, topic: str | None) -> Event | Ended | None:
    """What `event` means on a stream of `topic`; None where its events are in the envelope form and name their own.

    Raises:
        ValueError, KeyError: it isn't in the broker's form.
    """
    kind = event.type or ""
    if kind.startswith("broker."):
        return _control(event, kind)
    if topic is not None:
        return Event(event.data, event.type, event.id, topic)
    value = json_object(event.data)
    event_type = None if value["event"] is None else _text(value, "event")
    return Event(_text(value, "data"), event_type, event.id, _text(value, "topic"))


def _control(event: Event, kind: str) -> Event | Ended | None:
    value = json_object(event.data)
    match kind:
        case (
            "broker.open" | "broker.expired"
        ):  # after the latter the broker says by 401 whether the token is to blame
            return None
        case "broker.end":
            return Ended(_text(value, "topic"), _text(value, "reason"))
        case "broker.gap":
            topic, after, why = (_text(value, name) for name in ("topic", "after", "reason"))
            return Gap(event.data, kind, event.id, topic, after, why)
        case _:
            return Event(event.data, kind, event.id, _text(value, "topic"))


def _text(value: Mapping[str, object], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise ValueError(f"{name!r} is no text")
    return text
