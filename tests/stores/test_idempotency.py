"""Idempotency keys in memory."""

from __future__ import annotations

import pytest

from broker.errors import RateLimited
from broker.stores.idempotency import KEY_OVERHEAD_BYTES, KEYS_PER_SWEEP, IdempotencyKeys

SECONDS = 30.0
ROOM = KEY_OVERHEAD_BYTES + 2
"""What a key of one letter takes in a topic of one letter."""


def test_a_key_is_remembered_for_its_topic_and_time() -> None:
    keys = IdempotencyKeys(SECONDS, 10 * ROOM)
    keys.put("a", "k", 5, 100.0)
    assert keys.get("a", "k", 129.9) == 5
    assert keys.get("b", "k", 129.9) is None
    assert keys.get("a", "l", 129.9) is None
    assert keys.get("a", "k", 130.0) is None


def test_a_clock_that_stepped_back_lets_no_key_live_on() -> None:
    keys = IdempotencyKeys(SECONDS, 10 * ROOM)
    keys.put("a", "k", 5, 100.0)
    assert keys.get("a", "k", 70.1) == 5
    assert keys.get("a", "k", 70.0) is None


def test_room_is_counted_for_all_topics_and_given_back_exactly() -> None:
    keys = IdempotencyKeys(SECONDS, 3 * ROOM)
    for topics in ("abc", "ab", "abc"):
        keys.check_room(topics, "k")
    with pytest.raises(RateLimited) as refused:
        keys.check_room("abcd", "k")
    assert refused.value.retry_after == 3
    for topic in "abc":
        keys.put(topic, "k", 5, 100.0)
    with pytest.raises(RateLimited):
        keys.check_room("a", "")
    keys.put("d", "k", 5, 110.0)
    keys.sweep(130.0)
    keys.check_room("ab", "k")
    with pytest.raises(RateLimited):
        keys.check_room("abc", "k")


def test_i9_a_few_are_forgotten_at_once_and_none_is_remembered_for_too_long() -> None:
    """A process that was stopped for a while finds all of its keys too old."""
    number = 2 * KEYS_PER_SWEEP + 1
    keys = IdempotencyKeys(SECONDS, number * (ROOM + 10))
    for index in range(number):
        keys.put("a", f"{index}", 5, 100.0)
    keys.sweep(100.0 + SECONDS)
    assert len(keys._ids) == number - KEYS_PER_SWEEP
    newest = f"{number - 1}"
    assert keys.get("a", newest, 100.0 + SECONDS) is None
    assert len(keys._ids) == 1
    keys.put("a", newest, 6, 200.0)
    assert keys.get("a", newest, 201.0) == 6
    keys.sweep(200.0 + SECONDS)
    assert (keys._bytes, keys._ids) == (0, {})
