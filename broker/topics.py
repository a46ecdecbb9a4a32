"""Topic names, patterns, event types and retention: values, and checks of values.

The rules come from contract §1 (names, patterns) and §2 (types).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from broker.errors import DenialReason, Forbidden, InvalidParameter, InvalidTopic

MAX_TOPIC_CHARS = 200
MAX_TYPE_CHARS = 100
MAX_TOPICS_PER_REQUEST = 32

_SEGMENT = r"[A-Za-z0-9_~:@-]+"
_TOPIC = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})*")
_PATTERN = re.compile(rf"(?:(?:{_SEGMENT}|\*)\.)*(?:{_SEGMENT}|\*|\*\*)")
_FORBIDDEN_IN_TYPE = re.compile(r"[\r\n\0]")


def check_topic(topic: str) -> str:
    """Return `topic` if it is a valid name (contract §1).

    Raises:
        InvalidTopic: it isn't.
    """
    if len(topic) <= MAX_TOPIC_CHARS and _TOPIC.fullmatch(topic):
        return topic
    raise InvalidTopic(
        f"A topic is 1 to {MAX_TOPIC_CHARS} of the characters A-Z a-z 0-9 . _ ~ : @ - "
        "where '.' separates segments that aren't empty."
    )


def check_publishable(topic: str) -> str:
    """Return `topic` if clients may publish to it.

    Raises:
        InvalidTopic: it is not a valid name.
        Forbidden: it starts with `_`, so it is reserved for the broker.
    """
    if check_topic(topic)[0] == "_":
        raise Forbidden(
            "Topics that start with '_' are reserved for the broker; choose another name.",
            reason=DenialReason.RESERVED_TOPIC,
        )
    return topic


def check_type(event_type: str) -> str:
    """Return `event_type` if it is a valid type (contract §2).

    Raises:
        InvalidParameter: it isn't.
    """
    if not 1 <= len(event_type) <= MAX_TYPE_CHARS or _FORBIDDEN_IN_TYPE.search(event_type):
        raise InvalidParameter(f"An event's type is 1 to {MAX_TYPE_CHARS} characters without CR, LF or NUL.")
    if event_type.startswith("broker."):
        raise InvalidParameter(
            "Event types that start with 'broker.' are reserved for the broker; choose another."
        )
    if any(0xD800 <= ord(char) <= 0xDFFF for char in event_type):
        raise InvalidParameter("An event's type must be valid Unicode; this one has a lone surrogate.")
    return event_type


class Patterns:
    """Patterns as a tree of their segments, so that a topic is compared with all of them at once.

    `*` is one segment, a final `**` one or more. Names that start with `_` match only patterns that start with `_`
    (contract §1). The patterns must be valid.
    """

    __slots__ = ("_root",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._root: _Branch = {}
        for pattern in patterns:
            branch = self._root
            for segment in pattern.split("."):
                branch = branch.setdefault(segment, {})
            branch[_END] = {}

    def match(self, topic: str) -> bool:
        """Whether a pattern matches `topic`. The work is bounded by the patterns' length, whatever the topic's."""
        branches, is_reserved = [self._root], topic.startswith("_")
        for segment in topic.split("."):
            following = []
            for branch in branches:
                if not is_reserved:
                    if "**" in branch:
                        return True
                    if "*" in branch:
                        following.append(branch["*"])
                if segment in branch:
                    following.append(branch[segment])
            if not following:
                return False
            branches, is_reserved = following, False
        return any(_END in branch for branch in branches)


_Branch = dict[str, "_Branch"]
_END = ""  # no segment is empty


_SHORT_CHARS = 256
_of_short = lru_cache(maxsize=512)(Patterns)
_of_long = lru_cache(maxsize=32)(Patterns)  # such a tree may take 1 MB


def compiled(patterns: tuple[str, ...]) -> Patterns:
    """`Patterns`, made once for callers that come again."""
    return (_of_short if sum(map(len, patterns)) <= _SHORT_CHARS else _of_long)(patterns)


def matches(pattern: str, topic: str) -> bool:
    """Whether `pattern` matches `topic`; see `Patterns`."""
    return compiled((pattern,)).match(topic)


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it is valid (contract §1).

    Raises:
        InvalidTopic: it isn't.
    """
    if len(pattern) <= MAX_TOPIC_CHARS and _PATTERN.fullmatch(pattern):
        return pattern
    raise InvalidTopic("A pattern is a topic in which any segment may be '*' and the last one '**'.")


@dataclass(frozen=True, slots=True)
class Retention:
    """What a topic keeps for replay. All three limits apply; `bytes` counts events as they are sent."""

    events: int
    bytes: int
    seconds: float


STATS_TOPIC = "_stats"
"""The topic of the broker's own figures (`node.stats`)."""
STATS_RETENTION = Retention(events=20_000, bytes=8 << 20, seconds=60)
"""A new reader goes back to the newest summary of each instance, which is at most half of this old (`node.stats`)."""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """The retention of every topic.

    Attributes:
        default: applies if no override matches.
        overrides: patterns with their retention; the first match applies.
        retain: limits for a topic that was opened with `?retain=`, which replaces `seconds`.
    """

    default: Retention
    overrides: Sequence[tuple[str, Retention]] = ()
    retain: Retention = Retention(100_000, 16 << 20, 86_400)

    def of(self, topic: str) -> Retention:
        """The retention of a topic opened without `?retain=`."""
        if topic == STATS_TOPIC:
            return STATS_RETENTION
        for pattern, retention in self.overrides:
            if matches(pattern, topic):
                return retention
        return self.default

    def with_retain(self, seconds: float) -> Retention:
        """The retention of a topic opened with `?retain=` for `seconds`."""
        return replace(self.retain, seconds=seconds)
