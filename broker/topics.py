"""Names of topics, patterns over them, event types, and what a topic retains.

The rules are contract §1 (names, patterns) and §2 (types). Everything here is a value or a check of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.errors import Forbidden, InvalidParameter, InvalidTopic

MAX_TOPIC_CHARS = 200
MAX_TYPE_CHARS = 100
MAX_TOPICS_PER_REQUEST = 32

_SEGMENT = r"[A-Za-z0-9_~:@-]+"
_TOPIC = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})*")
_PATTERN = re.compile(rf"(?:(?:{_SEGMENT}|\*)\.)*(?:{_SEGMENT}|\*|\*\*)")
_FORBIDDEN_IN_TYPE = re.compile(r"[\r\n\0]")


def check_topic(topic: str) -> str:
    """`topic` itself, if it is a name (contract §1).

    Raises:
        InvalidTopic: it isn't.
    """
    if len(topic) <= MAX_TOPIC_CHARS and _TOPIC.fullmatch(topic):
        return topic
    raise InvalidTopic(
        f"A topic is 1 to {MAX_TOPIC_CHARS} characters of A-Z a-z 0-9 . _ ~ : @ - "
        "in which '.' separates segments, none of them empty."
    )


def check_publishable(topic: str) -> str:
    """`topic` itself, if it is a name that a publisher may use.

    Raises:
        InvalidTopic: it is no name.
        Forbidden: it starts with `_`, so it is the broker's own.
    """
    if check_topic(topic)[0] == "_":
        raise Forbidden("Topics that start with '_' are the broker's own; nobody else publishes to them.")
    return topic


def check_type(event_type: str) -> str:
    """`event_type` itself, if it is an event's type (contract §2).

    Raises:
        InvalidParameter: it isn't.
    """
    if not 1 <= len(event_type) <= MAX_TYPE_CHARS or _FORBIDDEN_IN_TYPE.search(event_type):
        raise InvalidParameter(f"An event's type is 1 to {MAX_TYPE_CHARS} characters without CR, LF and NUL.")
    if event_type.startswith("broker."):
        raise InvalidParameter("Event types that start with 'broker.' are the broker's own; choose another.")
    if any("\ud800" <= char <= "\udfff" for char in event_type):
        raise InvalidParameter("An event's type must be Unicode text; this one has a lone surrogate.")
    return event_type


def matches(pattern: str, topic: str) -> bool:
    """Whether `pattern` covers `topic`: `*` is one segment, a last `**` one or more (contract §1).

    Names that start with `_` are covered only by patterns that start with `_`.
    """
    if topic.startswith("_") and not pattern.startswith("_"):
        return False
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == "**":
        if len(given) < len(wanted):
            return False
        wanted = wanted[:-1]
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def check_pattern(pattern: str) -> str:
    """`pattern` itself, if it is one (contract §1).

    Raises:
        InvalidTopic: it isn't.
    """
    if len(pattern) <= MAX_TOPIC_CHARS and _PATTERN.fullmatch(pattern):
        return pattern
    raise InvalidTopic("A pattern is a topic in which a whole segment may be '*', and the last one '**'.")


@dataclass(frozen=True, slots=True)
class Retention:
    """What a topic keeps for replay: at most `events`, of `bytes` on the wire, for `seconds`; the tightest rules."""

    events: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """The retention of every topic: the first override whose pattern matches, else the default.

    Attributes:
        asked: what a topic keeps whose first publisher has asked for a time, but for that time.
    """

    default: Retention
    overrides: Sequence[tuple[str, Retention]] = ()
    asked: Retention = Retention(100_000, 16 << 20, 86_400)

    def of(self, topic: str) -> Retention:
        for pattern, retention in self.overrides:
            if matches(pattern, topic):
                return retention
        return self.default

    def asked_for(self, seconds: float) -> Retention:
        """What a topic keeps whose first publisher has asked for `seconds`."""
        return replace(self.asked, seconds=seconds)
