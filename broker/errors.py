"""What can be a caller's fault, or the broker's, in words.

Rules: no HTTP statuses here (`web/errors.py` has the one table); a defect is an assertion, never a `BrokerError`.
`detail` says what to do about it and tells nothing of the inside.
"""

from __future__ import annotations

from collections.abc import Sequence


class BrokerError(Exception):
    """Base of all errors that a caller is told of. `extra` are members added to the answer, such as `line`."""

    code = "internal"

    def __init__(self, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class InvalidTopic(BrokerError):
    """The caller's: a name that breaks the rule of contract §1."""

    code = "invalid-topic"


class InvalidBody(BrokerError):
    """The caller's: a body that isn't UTF-8, or a line of it that isn't what its Content-Type promises."""

    code = "invalid-body"


class InvalidParameter(BrokerError):
    """The caller's: a query parameter or header outside its rule."""

    code = "invalid-parameter"


class TooLarge(BrokerError):
    """The caller's: an event over `max_event_bytes`."""

    code = "too-large"


class Unauthorized(BrokerError):
    """The caller's: nobody knows who this is; `error` is the word for it (RFC 6750 §3.1), "" where no token came at all."""

    code = "unauthorized"

    def __init__(self, detail: str, error: str = "", **extra: object) -> None:
        super().__init__(detail, **extra)
        self.error = error


class Forbidden(BrokerError):
    """The caller's: nobody, or not this caller, may do this."""

    code = "forbidden"


class Closed(BrokerError):
    """The caller's: nothing more can be published to a topic that has ended; `topics` are those."""

    code = "closed"

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__(
            f"{', '.join(topics)} has ended; DELETE it to use the name again.", topics=list(topics)
        )
        self.topics = topics


class Cancelled(BrokerError):
    """Nobody's fault: whoever publishes a stream was asked to stop."""

    code = "cancelled"


class OutOfOrder(BrokerError):
    """The caller's: a producer left something of its stream out; `expected` is the number to go on with."""

    code = "out-of-order"

    def __init__(self, expected: int) -> None:
        super().__init__(
            f"Events before this one are missing; go on with Broker-Sequence: {expected}.", expected=expected
        )


class RateLimited(BrokerError):
    """The caller's: more than its share; again after `retry_after` seconds."""

    code = "rate-limited"

    def __init__(self, detail: str, retry_after: int, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.retry_after = retry_after


class Unavailable(BrokerError):
    """The broker's: the store can't be reached or this instance is draining; again after `retry_after` seconds."""

    code = "unavailable"

    def __init__(self, detail: str, retry_after: int = 1, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """The broker's: it holds as many connections as it may."""

    code = "overloaded"
