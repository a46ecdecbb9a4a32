"""Grants: what a caller may do, and how a refusal is reported."""

from __future__ import annotations

import pytest

from broker.auth.grants import ALL_TOPICS, FULL_ACCESS, Grant
from broker.errors import Forbidden, Unauthorized
from broker.topics import MAX_TOPICS_PER_REQUEST
from tests.support.work import bytecodes

GRANT = Grant(publish=("a.*",), subscribe=("a.**", "_stats"))
ANONYMOUS = Grant(subscribe=ALL_TOPICS, anonymous=True)


def test_every_topic_must_be_allowed() -> None:
    GRANT.check_publish(["a.b", "a.c"])
    GRANT.check_subscribe(["a.b.c", "_stats"])
    with pytest.raises(Forbidden) as caught:
        GRANT.check_publish(["a.b", "b", "a.b.c"])
    assert caught.value.extra == {"topics": ["b", "a.b.c"]}
    assert "publish to b, a.b.c" in caught.value.detail
    with pytest.raises(Forbidden) as caught:
        GRANT.check_subscribe(["a"])
    assert "subscribe to a" in caught.value.detail


def test_a_grant_without_patterns_allows_no_topic() -> None:
    for check in (Grant().check_publish, Grant().check_subscribe):
        check([])
        with pytest.raises(Forbidden):
            check(["a"])


def test_full_access_includes_reserved_topics_and_all_topics_does_not() -> None:
    FULL_ACCESS.check_publish(["a", "_stats"])
    FULL_ACCESS.check_subscribe(["a", "_stats"])
    FULL_ACCESS.check_admin()
    Grant(ALL_TOPICS).check_publish(["a", "a.b"])
    with pytest.raises(Forbidden):
        Grant(ALL_TOPICS).check_publish(["_stats"])


def test_only_an_admin_passes_the_admin_check() -> None:
    Grant(admin=True).check_admin()
    with pytest.raises(Forbidden):
        Grant(None, None).check_admin()


def test_without_a_token_a_refusal_asks_for_one() -> None:
    ANONYMOUS.check_subscribe(["a"])
    for check in (ANONYMOUS.check_admin, lambda: ANONYMOUS.check_publish(["a"])):
        with pytest.raises(Unauthorized) as caught:
            check()
        assert caught.value.error == "", "no token, so none is invalid (RFC 6750 §3.1)"


def test_the_work_for_many_patterns_and_long_topics_is_bounded() -> None:
    """A token holds about 700 patterns, a request 32 topics of 90 segments: 45 ms for each request, pattern by pattern."""
    patterns = tuple(f"*.a{number:03}.**" for number in range(700))
    topics = [".".join(["a"] * 90 + [str(number)]) for number in range(MAX_TOPICS_PER_REQUEST)]
    grant = Grant(subscribe=(*patterns, *topics))
    grant.check_subscribe(topics)
    allowed = bytecodes(lambda: grant.check_subscribe(topics))
    few = Grant(subscribe=topics)
    few.check_subscribe(topics)
    assert allowed < 2 * bytecodes(lambda: few.check_subscribe(topics)) + 5000
    grant = Grant(subscribe=patterns)

    def refused() -> None:
        with pytest.raises(Forbidden):
            grant.check_subscribe(topics)

    refused()
    assert bytecodes(refused) < 20_000
