"""Names, patterns and types: valid and invalid ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Forbidden, InvalidParameter, InvalidTopic
from broker.topics import (
    Retention,
    RetentionRules,
    check_pattern,
    check_publishable,
    check_topic,
    check_type,
    matches,
)

SEGMENT = st.text("AZaz09_~:@-", min_size=1, max_size=8)
TOPIC = st.lists(SEGMENT, min_size=1, max_size=6).map(".".join)
PATTERN = st.tuples(st.lists(SEGMENT | st.just("*"), max_size=5), SEGMENT | st.sampled_from(["*", "**"])).map(
    lambda parts: ".".join((*parts[0], parts[1]))
)

GOOD = ["a", "A-b_c~d:e@f", "0", "a.b.c", "-", "~", "@", ":", "_stats", "x" * 200, ".".join("a" * 100)]
BAD = ["", ".", "..", "a.", ".a", "a..b", "a/b", "a b", "a+b", "a\n", "\na", "a\r", "a\0", "a\tb", "a%2Fb"]
BAD += ["*", "a.*", "a.**", "a,b", "a;b", "a?b", "a#b", "a\\b", "{a}"]
BAD += ["x" * 201, "\u00e9", "\uff41", "a\u2028b", "\ud800", "a\x85"]


@pytest.mark.parametrize("topic", GOOD)
def test_valid_topics(topic: str) -> None:
    assert check_topic(topic) == topic


@pytest.mark.parametrize("topic", BAD)
def test_invalid_topics(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        check_topic(topic)


@given(st.text())
def test_topics_follow_the_contract(text: str) -> None:
    rule = 1 <= len(text) <= 200 and all(
        segment and all(char in _ALLOWED for char in segment) for segment in text.split(".")
    )
    try:
        assert check_topic(text) == text
    except InvalidTopic:
        assert not rule
    else:
        assert rule


_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_~:@-")


@given(TOPIC)
def test_clients_may_not_publish_to_reserved_names(topic: str) -> None:
    if topic.startswith("_"):
        with pytest.raises(Forbidden):
            check_publishable(topic)
    else:
        assert check_publishable(topic) == topic


@pytest.mark.parametrize(
    "event_type", ["a", "x" * 100, "a b", "ü", "brokers", "broker", "Broker.x", ":", " ", "\u2028", "\x85"]
)
def test_valid_types(event_type: str) -> None:
    assert check_type(event_type) == event_type


@pytest.mark.parametrize(
    "event_type", ["", "x" * 101, "a\nb", "a\rb", "a\0", "broker.", "broker.open", "\ud800", "a\udfffb"]
)
def test_invalid_types(event_type: str) -> None:
    with pytest.raises(InvalidParameter):
        check_type(event_type)


# Patterns


@pytest.mark.parametrize(
    ("pattern", "topic", "matched"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*.b", "a.b", True),
        ("a.*", "a", False),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.b.c", False),
        ("**", "a", True),
        ("**", "a.b.c", True),
        ("a.**", "a", False),
        ("a.**", "a.b", True),
        ("a.**", "a.b.c", True),
        ("a.**", "b.c", False),
        ("a.*.**", "a.b", False),
        ("a.*.**", "a.b.c", True),
        ("**", "_stats", False),
        ("*", "_stats", False),
        ("_stats", "_stats", True),
        ("_stats.**", "_stats.a", True),
        ("_*", "_stats", False),
    ],
)
def test_what_a_pattern_matches(pattern: str, topic: str, matched: bool) -> None:
    assert matches(pattern, topic) == matched


@given(PATTERN, TOPIC)
def test_a_pattern_matches_like_its_regular_expression(pattern: str, topic: str) -> None:
    check_pattern(pattern)
    segments = [
        {"*": "[^.]+", "**": r"[^.]+(\.[^.]+)*"}.get(segment, re.escape(segment))
        for segment in pattern.split(".")
    ]
    hidden = topic.startswith("_") and not pattern.startswith("_")
    assert matches(pattern, topic) == (not hidden and re.fullmatch(r"\.".join(segments), topic) is not None)


@given(TOPIC)
def test_a_topic_is_a_pattern_that_matches_itself(topic: str) -> None:
    assert check_pattern(topic) == topic
    assert matches(topic, topic)


@pytest.mark.parametrize(
    "pattern", ["", ".", "**.a", "a.**.b", "a*", "*a", "***", "a..*", "*.", ".*", "x" * 201, "a/b", "*\n"]
)
def test_invalid_patterns(pattern: str) -> None:
    with pytest.raises(InvalidTopic):
        check_pattern(pattern)


def test_the_first_override_that_matches_applies() -> None:
    default, orders, rest = Retention(1, 1, 1), Retention(2, 2, 2), Retention(3, 3, 3)
    rules = RetentionRules(default, [("orders.**", orders), ("*.eu", rest)])
    assert [rules.of(topic) for topic in ("orders.eu", "news.eu", "news", "orders")] == [
        orders,
        rest,
        default,
        default,
    ]
