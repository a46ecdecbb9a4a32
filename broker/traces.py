"""Traces: the part of them that the broker needs, without a tracing library.

A publish is one span; the store's call and the fan-out are its children. A publisher's `traceparent` (W3C Trace Context) makes
them part of its own trace.

Rules: without tracing nothing of this is called, on no way that an event takes. `process.tracing` has the library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
MAX_TRACEPARENT_CHARS = 128
_STATE_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
MAX_STATE_CHARS = 512
MAX_STATE_MEMBERS = 32
LONG_STATE_MEMBER = 128
"""Longer members of a `tracestate` that is too long go first."""


class TraceContext:
    """A valid `traceparent` (W3C Trace Context §3.2), with its `tracestate`.

    Attributes:
        trace_id, span_id: of the sender's span; 32 and 16 hexadecimal digits.
        flags: the trace flags; bit 0 says whether the sender records it.
        state: the `tracestate`, as `parse_tracestate` returns it.
        is_foreign: whether the trace began elsewhere: the publisher has decided whether to record it.
    """

    __slots__ = ("flags", "is_foreign", "span_id", "state", "trace_id")

    def __init__(
        self, trace_id: str, span_id: str, flags: int, state: str = "", *, is_foreign: bool = False
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.state = state
        self.is_foreign = is_foreign

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)

    def unsampled(self) -> TraceContext:
        """The same without the sampled flag."""
        return TraceContext(
            self.trace_id, self.span_id, self.flags & ~1, self.state, is_foreign=self.is_foreign
        )

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(text: str | None, state: str = "") -> TraceContext | None:
    """The context in a `traceparent` header, with this `tracestate`; None if the first is malformed.

    A later version than 00 may have further fields.
    """
    if text is None or len(text) > MAX_TRACEPARENT_CHARS:
        return None
    found = _TRACEPARENT.fullmatch(text.strip())
    if found is None or (found[5] is not None and found[1] == "00"):
        return None
    return TraceContext(
        found[2], found[3], int(found[4], 16) & 0x03, parse_tracestate(state), is_foreign=True
    )


def parse_tracestate(text: str) -> str:
    """The members of a `tracestate` header (W3C Trace Context §3.3), at most `MAX_STATE_CHARS`; "" if it is malformed.

    Of a longer one, whole members are left out: long ones first, then from the end.
    """
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if (
        len(keys) != len(members)
        or len(members) > MAX_STATE_MEMBERS
        or not all(map(_STATE_MEMBER.fullmatch, members))
    ):
        return ""
    for is_long in (True, False):
        for member in reversed(members.copy()):
            if len(",".join(members)) <= MAX_STATE_CHARS:
                break
            if len(member) > LONG_STATE_MEMBER or not is_long:
                members.remove(member)
    return ",".join(members)


class Span(Protocol):
    """A span that is recorded."""

    @property
    def context(self) -> TraceContext:
        """The context that its children refer to, and that its events carry."""

    def end(self, error: str = "") -> None:
        """End it now; `error` is the code of what went wrong. Further calls change nothing."""


class Tracer(Protocol):
    """Records spans, or only passes contexts on."""

    def start(
        self, name: str, kind: str, parent: TraceContext | None, attributes: Mapping[str, str | int]
    ) -> Span | None:
        """Start a span; None if this trace isn't recorded. `kind` is `server`, `client` or `producer`."""


class Current:
    """The context of the publish that runs right now; None at any other time.

    Not a context variable: the front runs a handler in several of Python's contexts, and no two steps of handlers interleave.
    """

    __slots__ = ("context",)

    def __init__(self) -> None:
        self.context: TraceContext | None = None
