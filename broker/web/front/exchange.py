"""One request on a connection, with its body as it arrives.

Rules: knows no socket; its `BodyFlow` (the connection) reads on or stops reading. An error is made when it is raised, never
stored: a stored one would keep the frames that it passed through, with the body.
"""

from __future__ import annotations

import enum
from typing import Protocol

from broker.errors import InvalidBody
from broker.web.front.head import Head
from broker.web.values import Keep, Listener

HIGH_WATER_BYTES = 64 << 10
"""A connection stops reading while a handler leaves so many bytes of its request's body."""
PIECE_BYTES = 48
"""What each piece takes besides: chunks of one byte count with the memory that they take."""
REQUEST_BYTES = 600
HEADER_BYTES = 150
"""What a request takes that is parsed, and each of its headers."""


class BodyFlow(Protocol):
    """The connection of a request."""

    def hold_body(self, *, held: bool) -> None:
        """Stop reading, or read on."""

    def coalesce(self, *, on: bool) -> None:
        """From now on, arrivals may wait for a moment, or no longer."""

    def send_continue(self) -> None:
        """Ask the client for the body (RFC 9110 §10.1.1)."""


class Fault(enum.Enum):
    """Why a body will never be complete."""

    MALFORMED = enum.auto()
    LOST = enum.auto()


class Exchange:
    """A request, from its head to its answer; see `values.BodySource`.

    Attributes:
        peer: the client's address, if the front needs it.
        is_coalesced: whether it has called `BodyFlow.coalesce`.
        is_complete: whether the whole body has arrived.
        is_queued: whether the connection has queued it to be served.
        held_bytes: of its body, which the handler has not taken.
        began_at: when its handler began to wait, by `time.monotonic`; 0 if it never did.
        started_at: when the head was complete; seconds since 1970, 0 without an access log.
    """

    __slots__ = (
        "_fault",
        "_flow",
        "_has_continued",
        "_is_noticed",
        "_keep",
        "_listener",
        "_pieces",
        "began_at",
        "head",
        "held_bytes",
        "is_coalesced",
        "is_complete",
        "is_queued",
        "peer",
        "started_at",
    )

    _keep: Keep | None

    def __init__(self, flow: BodyFlow, head: Head, body: bytes | None = None) -> None:
        """A request with a complete head, and its whole `body` too if that is given."""
        self.head = head
        self.is_complete = self.is_queued = body is not None
        self.is_coalesced = False
        self.started_at = self.began_at = 0.0
        self.peer = ""
        self._flow = flow
        self._pieces = [body] if body else []
        self.held_bytes = 0
        self._is_noticed = False  # the connection is to know when the handler takes them
        self._has_continued = False  # the client was asked for the body
        self._fault: Fault | None = None
        self._listener: Listener | None = None

    # From the connection

    def feed(self, data: bytes) -> None:
        """More of the body has arrived."""
        self._pieces.append(data)
        former = self.held_bytes
        self.held_bytes = held = former + len(data) + PIECE_BYTES
        if former <= HIGH_WATER_BYTES < held:  # once: one read may bring thousands of pieces
            self._is_noticed = True
            self._flow.hold_body(held=True)

    def end(self) -> None:
        """The body is complete."""
        self.is_complete = True

    def fail(self, fault: Fault) -> None:
        """The body will never be complete."""
        self._fault = fault

    def left(self) -> None:
        """The client has left."""
        keep: Keep | None = getattr(self, "_keep", None)  # not set for most requests, which don't pay for it
        if keep is not None and self.held_bytes and not keep(self.held_bytes):
            self._pieces, self.held_bytes = [], 0
            self.is_complete = False
            self.fail(Fault.LOST)

    def notify(self) -> None:
        """Call the handler's listener: one of the above was called, perhaps several times."""
        if self._listener is not None:
            self._listener(None)

    def hand(self, data: bytes) -> None:
        """`feed` and `notify`, but a handler that waits may use the piece at once."""
        listener = self._listener
        if listener is None or self._pieces or not listener(data):
            self.feed(data)
            self.notify()

    def count_held(self) -> int:
        """`held_bytes`, for a connection that counts them: when they are taken, `BodyFlow.hold_body` is called."""
        self._is_noticed = self._is_noticed or self.held_bytes > 0
        return self.held_bytes

    def memory(self) -> int:
        """About how many bytes it takes until it is served."""
        body = self.head.length or 0 if self.is_complete else 0
        return REQUEST_BYTES + HEADER_BYTES * len(self.head.headers) + max(self.held_bytes, body)

    # For the handler

    @property
    def length(self) -> int | None:
        return self.head.length

    def arrived(self) -> bytes | None:
        if self.is_complete:
            return self._taken()
        if self._fault is not None:
            self._fail()
        return None

    def take(self) -> bytes | None:
        if self._pieces:
            return self._taken()
        if self.is_complete:
            return b""
        if self._fault is not None:
            self._fail()
        return None

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        self._listener = listener
        head = self.head
        if coalesced and head.length is None and not self.is_coalesced:
            self.is_coalesced = True
            self._flow.coalesce(on=True)
        if listener is None or self._has_continued:
            return
        if "expect" in head.headers and head.version == "1.1":
            self._has_continued = True
            self._flow.send_continue()

    def on_left(self, keep: Keep | None) -> None:
        self._keep = keep

    def _taken(self) -> bytes:
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        self.held_bytes = 0
        if self._is_noticed:
            self._is_noticed = False
            self._flow.hold_body(held=False)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fail(self) -> None:
        if self._fault is Fault.LOST:
            raise ConnectionResetError("the client left before its body was complete")
        raise InvalidBody("The body does not follow its Transfer-Encoding.")
