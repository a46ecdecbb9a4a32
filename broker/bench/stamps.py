"""The time stamp in the data of every event, and how a subscriber finds stamps in a chunk of bytes.

Rules: bytes and numbers; no sockets, no clock.

The data of an event is `^`, the CLOCK_MONOTONIC time of publishing in nanoseconds as 18 digits, `$`, and filler text. `^` occurs
nowhere else in a stream (the bench chooses topics and ids without it), so events are counted by counting one byte in a chunk:
no line is parsed, and no state is kept between chunks.

Sampling: of each chunk, one random event stands for all k events of the chunk (its latency is counted k times). If events come
one at a time, that is every event. If they come joined, each event is equally likely to be drawn, so percentiles stay unbiased;
`max` is then the maximum of the drawn events. A stamp that the end of the chunk cuts off, or that is zero, gives no latency.
"""

from __future__ import annotations

MARK = b"^"
DIGITS = 18
WIDTH = DIGITS + 2
FILLER = b"The quick brown fox jumps over the lazy dog 0123456789 "


def data(size: int, now_ns: int) -> bytes:
    """The data of an event: `size` bytes (at least WIDTH), stamped with `now_ns`. 0 means not stamped."""
    return stamp(now_ns) + filler(size)


def stamp(now_ns: int) -> bytes:
    """The stamp alone; `filler(size)` follows it."""
    return b"^%018d$" % now_ns


def filler(size: int) -> bytes:
    """The text that makes an event's data `size` bytes long."""
    wanted = size - WIDTH
    return (FILLER * (wanted // len(FILLER) + 1))[:wanted]


def count(chunk: bytearray, length: int) -> int:
    """How many events start in the first `length` bytes of `chunk`."""
    return chunk.count(MARK, 0, length)


def draw(chunk: bytearray, length: int, chance: float) -> int:
    """The stamp of a random event in `chunk[:length]`, in ns; 0 if the chunk has no event.

    `chance` is uniform in [0, 1). The event is the first one after a uniformly chosen byte, or the first of the chunk if
    none follows: events of the same size are equally likely.
    """
    at = chunk.find(MARK, int(chance * length), length)
    if at < 0:
        at = chunk.find(MARK, 0, length)
    end = at + WIDTH
    if at < 0 or end > length:
        return 0
    digits = chunk[at + 1 : end - 1]
    return int(digits) if digits.isdigit() and chunk[end - 1] == ord("$") else 0
