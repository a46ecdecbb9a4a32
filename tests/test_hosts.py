"""Host names and addresses."""

from __future__ import annotations

import pytest

from broker.hosts import is_local, is_loopback, split_port


@pytest.mark.parametrize(
    ("host", "loopback", "local"),
    [
        ("localhost", True, True),
        ("a.localhost", True, True),
        ("a.localhost.", True, True),
        ("127.0.0.1", True, True),
        ("127.8.9.1", True, True),
        ("[::1]", True, True),
        ("10.0.0.1", False, True),
        ("[2001:db8::1]", False, True),
        ("broker-1", False, True),
        ("my_broker.default.svc", False, True),
        ("broker.default.svc.cluster.local", False, True),
        ("broker.internal.", False, True),
        ("example.com", False, False),
        ("localhost.example.com", False, False),
        ("notlocalhost.com", False, False),
        ("svc.example", False, False),
        ("127.0.0.1.example.com", False, False),
        ("127.1", False, False),
        ("[::1", True, False),
        ("", False, False),
    ],
)
def test_which_names_no_other_site_can_own(host: str, loopback: bool, local: bool) -> None:
    assert (is_loopback(host), is_local(host)) == (loopback, local)


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("example.com:80", "example.com", "80"),
        ("example.com", "example.com", ""),
        ("example.com:", "example.com:", ""),
        ("example.com:x", "example.com:x", ""),
        ("example.com:٣", "example.com:٣", ""),
        ("[::1]:80", "[::1]", "80"),
        ("[::1]", "[::1]", ""),
        ("::1", "::1", ""),
        ("", "", ""),
    ],
)
def test_a_port_is_split_off(text: str, name: str, port: str) -> None:
    assert split_port(text) == (name, port)
