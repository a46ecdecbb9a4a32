"""Recognising proxies by their traces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from multidict import CIMultiDict

from broker.doctor.hops import CADDY, GO, HAPROXY, distinct, from_headers


@pytest.mark.parametrize(
    ("headers", "hops"),
    [
        ({}, ()),
        ({"Server": "nginx/1.22.1"}, ("nginx",)),
        ({"Server": "Caddy", "Via": "1.0 Caddy"}, ("Caddy",)),
        ({"Server": "cloudflare", "CF-RAY": "8"}, ("Cloudflare",)),
        ({"server": "istio-envoy", "x-envoy-upstream-service-time": "3"}, ("Envoy",)),
        ({"Server": "awselb/2.0"}, ("ALB",)),
        ({"Via": "1.1 google"}, ("Google's load balancer",)),
        ({"Server": "gunicorn"}, ()),
    ],
)
def test_headers(headers: dict[str, str], hops: Sequence[str]) -> None:
    assert from_headers(CIMultiDict(headers)) == hops


def test_each_is_named_once_and_caddy_accounts_for_go() -> None:
    assert distinct([GO, CADDY, CADDY]) == (CADDY,)
    assert distinct([GO]) == (GO,)
    assert distinct([HAPROXY, GO]) == (HAPROXY, GO)
