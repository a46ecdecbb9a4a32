"""The id of a request, from its headers."""

from __future__ import annotations

import pytest

from broker.web.front.head import RequestHeaders
from broker.web.request_id import request_id, sent_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def headers(**values: str) -> RequestHeaders:
    made = RequestHeaders()
    made.update({name.replace("_", "-"): value for name, value in values.items()})
    return made


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, None),
        ({"traceparent": PARENT}, TRACE),
        ({"traceparent": PARENT, "x_request_id": "mine"}, TRACE),
        ({"traceparent": f"{PARENT}-more"}, None),
        ({"traceparent": f"01-{TRACE}-b7ad6b7169203331-01-more"}, TRACE),
        ({"traceparent": f"ff-{TRACE}-b7ad6b7169203331-01"}, None),
        ({"traceparent": f"00-{TRACE.upper()}-b7ad6b7169203331-01"}, None),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": f"01-{TRACE}-b7ad6b7169203331-01-{'x' * 1000}"}, None),
        ({"traceparent": "bad", "x_request_id": "mine"}, "mine"),
        ({"x_request_id": "A-z_0.9:/+=@"}, "A-z_0.9:/+=@"),
        ({"x_request_id": "x" * 128}, "x" * 128),
        ({"x_request_id": "x" * 129}, None),
        ({"x_request_id": ""}, None),
        ({"x_request_id": "two words"}, None),
        ({"x_request_id": "a\x1b[2J"}, None),
        ({"x_request_id": "a\n"}, None),
        ({"x_request_id": 'a"b'}, None),
    ],
)
def test_the_id_that_the_client_sent(sent: dict[str, str], expected: str | None) -> None:
    assert sent_id(headers(**sent)) == expected


def test_else_a_new_one() -> None:
    assert request_id(headers(x_request_id="mine")) == "mine"
    made = {request_id(headers()) for _ in range(100)}
    assert len(made) == 100
    assert all(sent_id(headers(x_request_id=one)) == one for one in made)
