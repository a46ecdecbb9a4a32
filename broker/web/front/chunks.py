"""What is known of the chunks of a body that arrives, beside what llhttp knows (RFC 9112 §7.1).

A language model's token usually arrives as one whole chunk, which costs less to take than to parse. That is as safe as parsing:
only the plainest form is taken: a size in hexadecimal digits, CRLF, so many bytes, CRLF. Anything else is llhttp's: extensions,
several chunks, a part of one, the last one. It doesn't notice a chunk that is taken, for it stands before the first byte of a
size then, and stands there afterwards.
"""

from __future__ import annotations

import re

MAX_EXCESS_BYTES = 16 << 10
"""The limit for chunk extensions and trailers of a body."""
FRAME_BYTES = 16

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n(.+)\r\n", re.DOTALL)
_END = b"\r\n"


class Chunks:
    """The chunks of one body.

    Attributes:
        is_between: whether llhttp has had the body's head or a whole chunk, and no further size. Part of one may have arrived.
    """

    __slots__ = ("_excess_bytes", "_is_at_size", "is_between")

    def __init__(self) -> None:
        self.is_between = True
        self._is_at_size = False  # the next byte is the first one of a size
        self._excess_bytes = 0

    def parsed(self, data: bytes, body_bytes: int) -> bool:
        """llhttp has parsed `data`, with so many bytes of the body. Returns whether they are not mostly extensions or trailers."""
        self._is_at_size = self.is_between and data.endswith(_END)
        excess = len(data) - body_bytes * (1 + FRAME_BYTES)
        self._excess_bytes = max(0, self._excess_bytes + excess)
        return self._excess_bytes <= MAX_EXCESS_BYTES

    def only(self, data: bytes) -> bytes | None:
        """The content of the chunk that `data` is; None if it is anything but one whole chunk with content: llhttp has to parse it."""
        found = _CHUNK.fullmatch(data) if self._is_at_size else None
        if found is None:
            return None
        size, content = found.groups()
        return content if int(size, 16) == len(content) else None
