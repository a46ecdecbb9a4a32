"""Entity tags (RFC 9110 §8.8.3, §13.1.2)."""

from __future__ import annotations

import pytest

from broker.web.etag import tagged

HEADERS = {"Content-Type": "text/plain", "Cache-Control": "no-cache"}


def test_a_tag_is_that_of_the_body() -> None:
    one, same, other = (tagged(body, HEADERS, "").headers["ETag"] for body in (b"1", b"1", b"2"))
    assert one == same != other
    assert one.startswith('"')
    assert one.endswith('"')


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"other",W/{} ', "*"])
def test_a_known_tag_is_not_sent_again(form: str) -> None:
    tag = tagged(b"1", HEADERS, "").headers["ETag"]
    answer = tagged(b"1", HEADERS, form.format(tag))
    assert (answer.status, answer.body) == (304, b"")
    assert dict(answer.headers) == {"Cache-Control": "no-cache", "ETag": tag}


@pytest.mark.parametrize("form", ['"other"', "{}x", "W/", ",", "other", '"{}"'])
def test_another_tag_gets_the_body(form: str) -> None:
    tag = tagged(b"1", HEADERS, "").headers["ETag"]
    assert tagged(b"1", HEADERS, form.format(tag)).status == 200
