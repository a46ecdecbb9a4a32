"""Errors that are reported to a caller. Each docstring names the party at fault.

Rules: no HTTP statuses; `web/errors.py` has the only table of them. A defect is an assertion, never a `BrokerError`. `detail`
says what the caller can do and reveals nothing internal.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Self


class BrokerError(Exception):
    """The base class. `extra` holds further members of the response, such as `line`."""

    code = "internal"

    def __init__(self, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra

    @property
    def counted_as(self) -> str:
        """The metrics' label for it."""
        return self.code

    def __copy__(self) -> Self:
        """The same error without its traceback. By default a copy calls the constructor, which takes other arguments here."""
        copied = self.__class__.__new__(self.__class__, *self.args)
        copied.__dict__.update(self.__dict__)
        return copied


class InvalidTopic(BrokerError):
    """The caller's fault: a topic or pattern that breaks the rules of contract §1."""

    code = "invalid-topic"


class InvalidBody(BrokerError):
    """The caller's fault: a body that isn't UTF-8 or doesn't match its Content-Type."""

    code = "invalid-body"


class NoEventStream(InvalidBody):
    """The caller's fault, or its source's: a body that isn't an event stream at all, such as an error page."""


class Incomplete(BrokerError):
    """The caller's fault, or its source's: a streamed body that ended without the last event that it had announced."""

    code = "incomplete"


class InvalidParameter(BrokerError):
    """The caller's fault: an invalid query parameter or header."""

    code = "invalid-parameter"


class TooLarge(BrokerError):
    """The caller's fault: an event larger than `max_event_bytes`, or a publish that a rate limit never allows at once."""

    code = "too-large"


class GapFound(BrokerError):
    """No fault: events after the caller's cursor can't be delivered, and the answer can't report it in another way."""

    code = "gap"


class DenialReason(enum.StrEnum):
    """Why a request is unauthorized or forbidden, for operators: the word in the log line and in the metric's label."""

    NO_TOKEN = "no-token"  # noqa: S105 - no password
    MALFORMED = "malformed-token"
    SIGNATURE = "signature"
    """No key of the broker verifies the token."""
    CLAIMS = "claims"
    """The token is good, but its claims aren't for this broker."""
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    WITHDRAWN_KEY = "withdrawn-key"
    SEVERAL_COOKIES = "several-cookies"
    TOPICS = "topics"
    """The token isn't for these topics."""
    ADMIN = "admin"
    """The token lacks the admin right."""
    RESERVED_TOPIC = "reserved-topic"
    HOST = "host"
    ORIGIN = "origin"
    COOKIE_ORIGIN = "cookie-origin"


class Unauthorized(BrokerError):
    """The caller's fault: no token, or an invalid one. `error` is the code of RFC 6750 §3.1; "" without a token."""

    code = "unauthorized"

    def __init__(self, detail: str, error: str = "", *, reason: DenialReason, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.error = error
        self.reason = reason


class Forbidden(BrokerError):
    """The caller's fault: this isn't allowed, or not for this caller."""

    code = "forbidden"

    def __init__(self, detail: str, *, reason: DenialReason, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.reason = reason


class Closed(BrokerError):
    """The caller's fault: a publish to closed topics, which `topics` lists."""

    code = "closed"

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__(
            f"{', '.join(topics)} is closed; DELETE it to use the name again.", topics=list(topics)
        )
        self.topics = topics


class Cancelled(BrokerError):
    """Not a fault: the producer of a streamed body was asked to stop."""

    code = "cancelled"


class OutOfOrder(BrokerError):
    """The caller's fault: a producer skipped events of its stream. It must continue with the sequence number `expected`."""

    code = "out-of-order"

    def __init__(self, expected: int) -> None:
        super().__init__(
            f"Events before this one are missing; continue with Broker-Sequence: {expected}.",
            expected=expected,
        )


class RateLimited(BrokerError):
    """The caller's fault: it exceeded a limit. It may retry after `retry_after` seconds."""

    code = "rate-limited"

    def __init__(self, detail: str, retry_after: int, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.retry_after = retry_after


class Unavailable(BrokerError):
    """The broker's fault: its store or its supervisor can't be reached. Retry after `retry_after` seconds."""

    code = "unavailable"

    def __init__(self, detail: str, retry_after: int = 1, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.retry_after = retry_after


class Draining(Unavailable):
    """Not a fault: this instance shuts down."""

    @property
    def counted_as(self) -> str:
        return "draining"


class Overloaded(Unavailable):
    """The broker's fault: it has reached its maximum number of connections."""

    code = "overloaded"
