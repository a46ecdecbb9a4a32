"""Log lines about what clients do: streams that close, requests that are refused, gaps, administrators' orders.

Rules: the standard library's logging, with the facts as fields of the record (`extra`), so that each program decides on the form.
Never a payload, never a token. A client decides how often these happen, so each kind of line has a rate limit. Lines
beyond it are left out, counted and reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

BURST_SECONDS = 5
"""A burst of one kind may have the lines of this many seconds."""
SUMMARY_SECONDS = 10.0
"""Seconds between reports of the lines that were left out."""
MAX_KINDS = 500

MAX_ESCAPES = 2048

_logger = logging.getLogger("broker")


class Reporter:
    """Writes at most `per_second` lines of each kind; 0 for no limit. A kind is a message with a reason.

    Args:
        clock: seconds, from any moment on.
    """

    def __init__(self, per_second: float = 0, clock: Callable[[], float] = monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def report(self, level: int, message: str, reason: str, /, **fields: object) -> None:
        """Write `message`, with `reason` and those of `fields` that are neither None nor empty.

        `reason` must be one of a few words, as each has a rate limit of its own.
        """
        if self.admits(level, message, reason):
            self.write(level, message, reason, **fields)

    def admits(self, level: int, message: str, reason: str) -> bool:
        """Whether such a line is to be written now: `write` must follow then. A line that is left out is counted.

        For fields that are expensive to make; otherwise call `report`.
        """
        return _logger.isEnabledFor(level) and (not self._per_second or self._admit(message, reason))

    @staticmethod
    def write(level: int, message: str, reason: str, /, **fields: object) -> None:
        """As `report`, without the check of the rate limit."""
        given = {name: value for name, value in fields.items() if value is not None and value not in ("", ())}
        _logger.log(level, message, extra={"reason": reason, **given})

    def sweep(self) -> None:
        """Report the lines that were left out; to be called about once a second."""
        now = self._clock()
        for kind, bucket in self._buckets.items():
            if bucket.left_out and now - bucket.since >= SUMMARY_SECONDS:
                self._summarize(kind, bucket, now)

    def close(self) -> None:
        """Report the lines that were left out until now."""
        now = self._clock()
        for kind, bucket in self._buckets.items():
            if bucket.left_out:
                self._summarize(kind, bucket, now)

    def _admit(self, message: str, reason: str) -> bool:
        now = self._clock()
        kind = message, reason
        bucket = self._buckets.get(kind)
        if bucket is None:
            if len(self._buckets) >= MAX_KINDS:
                kind = message, "other"
            bucket = self._buckets.setdefault(kind, _Bucket(self._most, now))
        bucket.tokens = min(self._most, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return True
        if not bucket.left_out:
            bucket.since = now
        bucket.left_out += 1
        return False

    def _summarize(self, kind: tuple[str, str], bucket: _Bucket, now: float) -> None:
        left_out, bucket.left_out = bucket.left_out, 0
        message, reason = kind
        self.write(
            logging.WARNING,
            "log lines left out",
            reason,
            kind=message,
            count=left_out,
            seconds=round(now - bucket.since, 1),
        )


class _Bucket:
    """The rate of one kind.

    Attributes:
        at: when `tokens` was reckoned.
        since: when the first line was left out that is not reported yet.
    """

    __slots__ = ("at", "left_out", "since", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.tokens = tokens
        self.at = now
        self.left_out = 0
        self.since = now


def escape(text: str) -> str:
    """`text` on one line and without control characters: a client must not forge lines or send control sequences to a terminal."""
    return text if text.isprintable() else text.translate(_escapes)


class _Escapes(dict[int, str]):
    """For `str.translate`: each character as it is shown, made when it first comes. A header of 8 KB takes 0.3 ms instead of 2."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        shown = char if char.isprintable() else _numbered(code)
        if len(self) < MAX_ESCAPES:
            self[code] = shown
        return shown


def _numbered(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_escapes = _Escapes({ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"})
