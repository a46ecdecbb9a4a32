"""How far producers have come: repeats, holes, and forgotten ones."""

from __future__ import annotations

import pytest

from broker.errors import OutOfOrder
from broker.log.producers import MAX_PRODUCERS, ProducerSequences


def test_a_repeated_part_is_known_and_the_rest_is_not() -> None:
    producers = ProducerSequences()
    assert producers.known("p", 1, 3) == 0
    producers.advance("p", 4)
    assert [producers.known("p", first, 3) for first in (1, 2, 3, 4)] == [3, 2, 1, 0]
    assert producers.known("p", 4, 0) == 0


@pytest.mark.parametrize(("name", "first", "expected"), [("p", 5, 4), ("other", 2, 1)])
def test_a_hole_is_refused_with_the_number_that_is_expected(name: str, first: int, expected: int) -> None:
    producers = ProducerSequences()
    producers.advance("p", 4)
    with pytest.raises(OutOfOrder) as caught:
        producers.known(name, first, 1)
    assert caught.value.extra == {"expected": expected}


def test_the_producer_that_published_longest_ago_is_forgotten_first() -> None:
    producers = ProducerSequences()
    for number in range(MAX_PRODUCERS):
        producers.advance(f"p{number}", 2)
    producers.advance("p0", 3)
    producers.advance("one more", 2)
    with pytest.raises(OutOfOrder, match="continue with Broker-Sequence: 1"):
        producers.known("p1", 2, 1)
    assert producers.known("p0", 2, 2) == 1
