"""HTTP responses, as far as a load generator reads them."""

from __future__ import annotations

import pytest

from broker.bench.responses import response_end


@pytest.mark.parametrize(
    ("response", "is_complete"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 201 Created\r\ncontent-length:2\r\n\r\n{", False),
        (b"HTTP/1.1 201 Created\r\nContent-Le", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
    ],
)
def test_where_a_response_ends(response: bytes, is_complete: bool) -> None:
    assert response_end(response) == (len(response) if is_complete else 0)
