"""Which proxy a time-out belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.doctor.hops import GO
from broker.doctor.timeouts import KNOWN, Limits, owner


@pytest.mark.parametrize(
    ("seconds", "hops", "hop"),
    [
        (15.01, (), "Envoy"),
        (60.2, ("nginx",), "nginx"),
        (60.2, ("HAProxy", "nginx"), "nginx"),
        (60.2, (), None),  # several are known for it
        (75.1, ("Caddy",), "Caddy"),
        (100.3, (), "Cloudflare"),
        (125.9, ("Cloudflare", "nginx"), "Cloudflare"),
        (300.4, (), "Envoy"),
        (351, (), "AWS NLB"),
        (5.0, ("Caddy",), "Caddy"),  # set by hand in the only one there is
        (5.0, ("Cloudflare", "nginx"), None),
        (5.0, (), None),
    ],
)
def test_owner(seconds: float, hops: Sequence[str], hop: str | None) -> None:
    found = owner(seconds, hops)
    assert found.hop == hop
    assert found.why.endswith(".")
    assert hop is None or hop in found.why


def test_all_that_may_have_it_are_named() -> None:
    why = owner(60, ()).why
    for hop in {known.hop for known in KNOWN if known.seconds == 60 and Limits.SILENCE in known.limits}:
        assert hop in why
    assert "Cloudflare, nginx" in owner(5, ("Cloudflare", "nginx")).why


@pytest.mark.parametrize(
    ("seconds", "limits", "hop"),
    [
        (60.0, Limits.BODY, GO),
        (60.0, Limits.ANSWER, None),
        (15.0, Limits.ANSWER, "Envoy"),
        (15.0, Limits.BODY, None),  # it begins to run when the body is complete
        (300.0, Limits.ANSWER, None),
    ],
)
def test_a_time_out_for_silence_cuts_nothing_that_goes_on(
    seconds: float, limits: Limits, hop: str | None
) -> None:
    assert owner(seconds, (), limits).hop == hop
    found = owner(seconds, ("nginx", "Envoy", GO), limits)
    assert found.hop == hop
    assert "proxy_read_timeout" not in found.why


def test_every_time_out_of_the_plan_is_known() -> None:
    assert {15, 30, 60, 75, 100, 125, 300, 350} <= {known.seconds for known in KNOWN}
