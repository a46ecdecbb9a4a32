"""Decodes the events of a stream: published events, and the broker's own control events.

Rules: values in, values out.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.client.errors import json_object
from broker.client.types import End, Gap
from broker.events import Event


def decode(event: Event, topic: str | None) -> Event | None:
    """What `event` says to the subscriber, such as a `Gap` or an `End`; None if nothing.

    Args:
        topic: the topic of the stream; None if it has several; then each event is in an envelope that names its topic.

    Raises:
        ValueError, KeyError: a broker does not send such an event.
    """
    kind = event.type or ""
    if kind.startswith("broker."):
        return _decode_control(event, kind)
    if topic is not None:
        return Event(event.data, event.type, event.id, topic)
    envelope = json_object(event.data)
    event_type = None if envelope["event"] is None else _text(envelope, "event")
    return Event(_text(envelope, "data"), event_type, event.id, _text(envelope, "topic"))


def _decode_control(event: Event, kind: str) -> Event | None:
    value = json_object(event.data)
    match kind:
        case "broker.open":
            return None
        case "broker.expired":
            return None  # the next request gets a 401 if the token is invalid
        case "broker.end":
            topic, reason = (_text(value, name) for name in ("topic", "reason"))
            return End(event.data, kind, event.id, topic, reason)
        case "broker.gap":
            topic, after, reason = (_text(value, name) for name in ("topic", "after", "reason"))
            return Gap(event.data, kind, event.id, topic, after, reason)
        case _:
            return Event(event.data, kind, event.id, _text(value, "topic"))


def _text(value: Mapping[str, object], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise ValueError(f"{name!r} is not a string")
    return text
