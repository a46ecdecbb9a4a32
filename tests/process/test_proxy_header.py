"""The bytes of a PROXY header."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.process.proxy_header import MAX_V1_BYTES, MAX_V2_BYTES, BadHeader, client_address, header_bytes

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.1") + b"\x30\x39\x01\xbb"
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + b"\x30\x39\x01\xbb"


def v2(family: int, addresses: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(addresses).to_bytes(2) + addresses


GOOD = [
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 ::1 12345 443\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", ""),
    (v2(0x11, V4), "192.0.2.7"),
    (v2(0x21, V6), "2001:db8::7"),
    (v2(0x11, V4 + b"\x04\x00\x02ab"), "192.0.2.7"),  # with an extension
    (v2(0x11, V4, command=0x20), ""),  # LOCAL: the proxy's own health check
    (v2(0x00, b""), ""),
    (v2(0x31, bytes(216)), ""),  # a unix socket
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 12345\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 65536\r\n",
    b"PROXY TCP4 2001:db8::7 ::1 12345 443\r\n",
    b"PROXY TCP4 192.0.2.999 192.0.2.1 12345 443\r\n",
    b"PROXY TCP4  192.0.2.7 192.0.2.1 12345 443\r\n",
    b"PROXY UDP4 192.0.2.7 192.0.2.1 12345 443\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 \xff 192.0.2.1 12345 443\r\n",
    b"PROXY " + b"x" * MAX_V1_BYTES,
    v2(0x11, V4[:-1]),
    v2(0x21, V4),
    v2(0x11, V4, command=0x11),
    v2(0x11, V4, command=0x22),
    v2(0x11, bytes(MAX_V2_BYTES)),
]


@pytest.mark.parametrize(("header", "address"), GOOD)
def test_a_header_names_the_client(header: bytes, address: str) -> None:
    for size in range(len(header)):
        assert header_bytes(header[:size]) in (None, len(header)), "it may come in pieces"
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\n"):
        assert header_bytes(header + rest) == len(header)
    assert client_address(header) == address


@pytest.mark.parametrize("data", BAD)
def test_a_bad_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeader):
        end = header_bytes(data)
        assert end is not None
        client_address(data[:end])


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
    st.binary(max_size=5000),
)
def test_no_bytes_make_it_fail_otherwise_or_wait_for_ever(start: bytes, data: bytes) -> None:
    data = start + data
    try:
        end = header_bytes(data)
        if end is None:
            assert len(data) < MAX_V2_BYTES
        elif end <= len(data):
            client_address(data[:end])
    except BadHeader:
        return
