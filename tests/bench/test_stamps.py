"""Time stamps in events."""

from __future__ import annotations

from collections import Counter

from broker.bench import stamps


def test_the_draw_hits_every_event_of_a_chunk_equally_often() -> None:
    events = [b"id: %d\ndata: %b\n\n" % (n % 10, stamps.data(100, n + 1)) for n in range(7)]
    chunk = bytearray(b"".join(events))
    assert stamps.count(chunk, len(chunk)) == 7
    hits = Counter(stamps.draw(chunk, len(chunk), place / len(chunk)) for place in range(len(chunk)))
    assert hits == dict.fromkeys(range(1, 8), len(chunk) // 7)


def test_a_stamp_that_is_cut_or_not_there_has_no_age() -> None:
    whole = stamps.data(stamps.WIDTH, 12345)
    assert stamps.draw(bytearray(whole), len(whole), 0.0) == 12345
    assert stamps.draw(bytearray(whole), len(whole) - 1, 0.0) == 0
    assert stamps.draw(bytearray(b":\n"), 2, 0.5) == 0
    assert stamps.draw(bytearray(stamps.data(30, 0)), 30, 0.0) == 0


def test_data_has_the_size_asked_for_and_one_mark() -> None:
    for size in (stamps.WIDTH, 200, 5000):
        data = stamps.data(size, 7)
        assert len(data) == size
        assert data.count(stamps.MARK) == 1
