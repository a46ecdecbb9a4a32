"""How a streamed body shows that it is whole: what its last event looks like (contract §2, "how the end is known")."""

from __future__ import annotations

from dataclasses import dataclass

from broker import sse

_TYPE = b"event: "


@dataclass(frozen=True, slots=True)
class EndMark:
    """The last event of a whole body. With both, either is enough.

    Attributes:
        data: its whole data, or None.
        type: its type, or None.
    """

    data: str | None
    type: str | None

    def is_in(self, lines: bytes) -> bool:
        """Whether the event with these lines (`sse.lines`) is the mark."""
        return self.has_data_of(lines) or self.has_type_of(lines)

    def has_data_of(self, lines: bytes) -> bool:
        if self.data is None:
            return False
        if lines.startswith(_TYPE):
            lines = lines.partition(b"\n")[2]
        return lines == sse.lines(self.data.encode())

    def has_type_of(self, lines: bytes) -> bool:
        return self.type is not None and lines.startswith(_TYPE + self.type.encode() + b"\n")

    def __str__(self) -> str:
        wanted = []
        if self.data is not None:
            wanted.append(f"data {self.data[:100]!r}")
        if self.type is not None:
            wanted.append(f"type {self.type!r}")
        return " or ".join(wanted)
