"""When a failed request is repeated, and whether an event may be sent again.

Rules: no clock and no waiting; the caller has both. An event is never published twice: a request with an unknown outcome is
repeated only if it carries an `Idempotency-Key`.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus

from broker.backoff import Backoff
from broker.client.errors import UNEXPECTED, PublishError
from broker.client.response import TEXT

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
LASTING_SECONDS = 1.0
"""A stream's connection that lasts for longer, with all events sent, is progress: the broker was reachable."""
REFUSED_SECONDS = 30.0
"""The same for a connection that a proxy ends with an answer of its own: it may have waited that long for a broker that is gone."""
KEY_BYTES = 12


class Retries:
    """The waits before repetitions, within `patience_seconds`; 0 never repeats.

    Args:
        now: the time from which the patience counts; by default from the first failure since the last progress.
    """

    def __init__(self, patience_seconds: float, now: float | None = None) -> None:
        self._patience_seconds = patience_seconds
        self._backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        self._deadline = None if now is None else now + patience_seconds

    def restart(self) -> None:
        """There was progress."""
        self._backoff.reset()
        self._deadline = None

    def ended(self, error: PublishError, idle_seconds: float) -> None:
        """A stream's connection has ended. It had lasted for `idle_seconds` with all events sent; negative if it had not."""
        is_by_proxy = error.status is not None and error.code == UNEXPECTED
        if idle_seconds > (REFUSED_SECONDS if is_by_proxy else LASTING_SECONDS):
            self.restart()

    def wait_seconds(self, error: PublishError, now: float) -> float:
        """The seconds until the next attempt. Raises `error` if that would be too late."""
        if self._deadline is None:
            self._deadline = now + self._patience_seconds
        seconds = max(self._backoff.next(), error.retry_after or 0)
        if now + seconds > self._deadline:
            raise error
        return seconds


class KeyRoom:
    """Whether the broker has room for new idempotency keys, as far as a client knows."""

    def __init__(self) -> None:
        self._full_until = 0.0

    def make_key(self, now: float) -> str | None:
        """A new key; None if the broker has no room for one."""
        return secrets.token_urlsafe(KEY_BYTES) if now >= self._full_until else None

    def refused(self, error: PublishError, now: float) -> None:
        """The broker refused a new key."""
        self._full_until = now + (error.retry_after or 0)


class PublishAttempts:
    """The attempts to publish one event.

    If the broker has no room for a key made here (429), the event is repeated without one, unless an earlier attempt may have
    succeeded. A request without a key is repeated only after a failure that shows that the event was not published.

    Args:
        key: the caller's idempotency key.
        room: makes a key unless the caller gives one; None never makes a key.
        now: the time at which the patience starts.

    Attributes:
        key: the key of the next attempt, or None.

    Raises:
        ValueError: `key` cannot be sent in a header.
    """

    def __init__(self, key: str | None, room: KeyRoom | None, patience_seconds: float, now: float) -> None:
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError(f"{key!r} cannot be sent in a header")
        self._room = room
        self._can_drop_key = False
        self._retries = Retries(patience_seconds, now)
        self.key = key
        if key is None and room is not None:
            self.key = room.make_key(now)
            self._can_drop_key = self.key is not None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the next attempt."""
        return dict(TEXT) if self.key is None else {**TEXT, "Idempotency-Key": self.key}

    def keep_key(self) -> None:
        """An attempt may have succeeded: no later one goes without the key."""
        self._can_drop_key = False

    def wait_seconds(self, error: PublishError, now: float, *, was_sent: bool) -> float:
        """The seconds until the next attempt after `error`. Raises `error` if there is none.

        Args:
            was_sent: the broker may have received the request.
        """
        if self._can_drop_key and self._room is not None and error.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._room.refused(error, now)
            self._can_drop_key, self.key = False, None
            return 0
        self._can_drop_key = False
        if not (error.passing if self.key is not None else _is_unpublished(error, was_sent)):
            raise error
        return self._retries.wait_seconds(error, now)


def _is_unpublished(error: PublishError, was_sent: bool) -> bool:
    return error.status == HTTPStatus.TOO_MANY_REQUESTS or not was_sent
