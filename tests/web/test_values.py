"""Queries, which every adapter parses the same way."""

from __future__ import annotations

import pytest

from broker.errors import InvalidParameter
from broker.web.values import MAX_PARAMETERS, Query


def test_query_values() -> None:
    query = Query("topic=a&x=1+2&topic=b%20c&empty=&name")
    assert query.get("x") == "1 2"
    assert query.getall("topic") == ["a", "b c"]
    assert query.get("topic") == "a"
    assert (query.get("empty"), query.get("name"), query.get("other")) == ("", "", None)
    assert "empty" in query
    assert "other" not in query
    assert list(query.getall("other")) == []


def test_no_query() -> None:
    query = Query("")
    assert query.get("x") is None
    assert "x" not in query


def test_i9_parameters_are_bounded() -> None:
    """Each is decoded, so a head full of them would keep all other clients waiting."""
    raw = "&".join(["topic=a"] * MAX_PARAMETERS)
    assert len(Query(raw).getall("topic")) == MAX_PARAMETERS
    query = Query(f"{raw}&")
    for _ in range(2):
        with pytest.raises(InvalidParameter):
            query.getall("topic")


@pytest.mark.parametrize("raw", ["x=%ff", "%C3=1", "x=%ed%a0%80"])
def test_percent_encoding_that_is_not_utf8(raw: str) -> None:
    with pytest.raises(InvalidParameter):
        Query(raw).check_utf8()


@pytest.mark.parametrize("raw", ["", "x=caf%C3%A9", "x=%", "x=%zz"])
def test_percent_encoding_that_is_utf8_or_literal(raw: str) -> None:
    Query(raw).check_utf8()
