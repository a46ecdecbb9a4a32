"""The interface of the formats of streamed bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from broker.stores.base import Item, PlainEvents


class BodyFormat(Protocol):
    """Decodes the bytes of one body into events."""

    def plain_events(self, data: bytes) -> PlainEvents | None:
        """The events that `data` is, if they are few and whole, and nothing is held; else None. Raises as `items` does.

        After None or several events, `data` may still be given to `items`.
        """

    def items(self, data: bytes) -> Iterator[Item | None]:
        """The events that `data` completes, with None where other tasks should run first.

        Raises a `BrokerError` at the first bad event.
        """

    def end(self) -> Iterator[Item | None]:
        """The events that the end of the body completes. Raises as `items` does."""

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept until their event is complete."""

    def location(self) -> Mapping[str, object]:
        """The place of an error, as members of its answer."""
