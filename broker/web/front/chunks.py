"""What is known of the chunks of a body that arrives, beside what llhttp knows (RFC 9112 §7.1).

A language model's token usually arrives as one whole chunk, which costs less to take than to parse. That is as safe as parsing:
only the plainest form is taken: a size in hexadecimal digits, CRLF, so many bytes, CRLF. If the broker is busy, a few such
chunks arrive together. Anything else is llhttp's: extensions, a part of a chunk, the last one. It doesn't notice chunks that are
taken, for it stands before the first byte of a size then, and stands there afterwards.
"""

from __future__ import annotations

import re

MAX_EXCESS_BYTES = 16 << 10
"""The limit for chunk extensions and trailers of a body."""
FRAME_BYTES = 16
MAX_CHUNKS = 32
"""Taken together."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")
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

    def whole(self, data: bytes) -> bytes | None:
        """The content of the chunks that `data` is; None if it is anything but a few whole chunks with content: llhttp has to parse it."""
        found = _CHUNK.fullmatch(data) if self._is_at_size else None
        if found is None:
            return None
        size, content = found.groups()
        return content if int(size, 16) == len(content) else _joined(data)


def _joined(data: bytes) -> bytes | None:
    """See `Chunks.whole`."""
    contents: list[bytes] = []
    start = 0
    while start < len(data):
        size = _SIZE.match(data, start)
        if size is None or len(contents) == MAX_CHUNKS:
            return None
        begin = size.end()
        start = begin + int(size[1], 16) + len(_END)
        content = data[begin : start - len(_END)]
        if not content or data[start - len(_END) : start] != _END:
            return None
        contents.append(content)
    return b"".join(contents)
