"""The stamp that every published event's data begins with, and what a reader makes of a chunk of bytes.

Rules: bytes and numbers; no sockets, no clock.

The data of an event is `^`, the CLOCK_MONOTONIC time of its publishing in nanoseconds as 18 digits, `$`, and filler.
`^` is nowhere else in a stream (topics, ids and JSON of control events aside, which the bench names itself), so events
are counted by counting one byte over a whole chunk: no line is parsed and no state is kept between chunks.

What is sampled: of each chunk one event, chosen with equal chance, stands for all k events of the chunk (its age is
recorded k times). Where events come one at a time, that is every event. Where they come joined, the ages of one chunk
are replaced by a fair draw from among them, so that every percentile stays unbiased; `max` is then that of the draws.
A stamp cut by the end of a chunk, or of zeros (not stamped), yields no age.
"""

from __future__ import annotations

MARK = b"^"
DIGITS = 18
WIDTH = DIGITS + 2
FILLER = b"The quick brown fox jumps over the lazy dog 0123456789 "


def data(size: int, now_ns: int) -> bytes:
    """The data of an event, `size` bytes (at least WIDTH), stamped with `now_ns`."""
    return stamp(now_ns) + filler(size)


def stamp(now_ns: int) -> bytes:
    """The stamp alone; it is followed by `filler(size)`."""
    return b"^%018d$" % now_ns


def filler(size: int) -> bytes:
    """What makes stamp and filler together `size` bytes: text that neither compresses to nothing nor holds a mark."""
    wanted = size - WIDTH
    return (FILLER * (wanted // len(FILLER) + 1))[:wanted]


def count(chunk: bytearray, length: int) -> int:
    """How many events begin in the first `length` bytes of `chunk`."""
    return chunk.count(MARK, 0, length)


def draw(chunk: bytearray, length: int, chance: float) -> int:
    """The stamp, in ns, of an event in `chunk[:length]`, 0 if it has none.

    `chance` is uniform in [0, 1). The event is the first behind a uniformly chosen byte, from the start again if there
    is none: events of one size are hit equally often.
    """
    at = chunk.find(MARK, int(chance * length), length)
    if at < 0:
        at = chunk.find(MARK, 0, length)
    end = at + WIDTH
    if at < 0 or end > length:
        return 0
    digits = chunk[at + 1 : end - 1]
    return int(digits) if digits.isdigit() and chunk[end - 1] == ord("$") else 0
