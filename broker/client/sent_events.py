"""The events of a stream, numbered and kept until its end, so that they can be sent again after a lost connection; and why it ends.

Rules: no I/O. The broker knows the numbers and publishes nothing twice.
"""

from __future__ import annotations

import secrets
from collections import deque

from broker.client.errors import UNREACHABLE, Cancelled, PublishError
from broker.client.types import FAILED, STOPPED

MAX_KEPT_BYTES = 16 << 20
"""Of a longer stream the last events are kept. An older one is lost only if the broker never received it."""
PRODUCER_NAME_BYTES = 12


class SentEvents:
    """The events of one producer.

    Attributes:
        kept_bytes: the size of the kept events.
        is_finished: no further events will be added.
    """

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.is_finished = False
        self._producer = secrets.token_urlsafe(PRODUCER_NAME_BYTES)
        self._kept: deque[bytes] = deque()
        self._first = 1  # the number of the first kept event
        self._sent = 0  # how many kept events the present connection has taken
        self._furthest = 1  # the number after the last event that any earlier connection has taken

    def add(self, line: bytes) -> None:
        """Keep one more event, a line of NDJSON."""
        self._kept.append(line)
        self.kept_bytes += len(line)
        while self.kept_bytes > MAX_KEPT_BYTES and self._sent:
            self.kept_bytes -= len(self._kept.popleft())
            self._first += 1
            self._sent -= 1

    def rewind(self) -> dict[str, str]:
        """A new connection starts with the first kept event. Returns the headers for the broker."""
        self._furthest = max(self._furthest, self._first + self._sent)
        self._sent = 0
        return {"Broker-Producer": self._producer, "Broker-Sequence": str(self._first)}

    @property
    def has_unsent(self) -> bool:
        """Whether there are events that the present connection has not taken."""
        return self._sent < len(self._kept)

    def take(self) -> bytes:
        """The events that the present connection has not taken."""
        lines = [self._kept[index] for index in range(self._sent, len(self._kept))]
        self._sent += len(lines)
        return b"".join(lines)

    @property
    def has_progress(self) -> bool:
        """Whether the present connection has taken events that none before it has."""
        return self._first + self._sent > self._furthest


def end_reason(error: BaseException, *, is_own: bool) -> str | None:
    """The reason of a topic's end after the block of its stream has raised `error`; None if the topic must not be ended.

    Args:
        is_own: the stream itself raised `error`.
    """
    if is_own and isinstance(error, PublishError):
        is_over = isinstance(error, Cancelled) or error.code in ("closed", UNREACHABLE)
        return None if is_over else FAILED
    return FAILED if isinstance(error, Exception) else STOPPED
