"""Which time-out belongs to which proxy.

Sources: the proxies' own documentation of their defaults, and the files of `deploy/` (75 s).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from broker.doctor.hops import ALB, CADDY, CLOUDFLARE, ENVOY, GO, HAPROXY, NGINX


class Limits(enum.Flag):
    """What a time-out limits."""

    SILENCE = enum.auto()
    ANSWER = enum.auto()
    """The whole answer, however much of it arrives."""
    BODY = enum.auto()
    """The whole body of a request."""


@dataclass(frozen=True, slots=True)
class KnownTimeout:
    """A time-out in seconds that a proxy is known for, and its name there."""

    seconds: float
    hop: str
    name: str
    limits: Limits = Limits.SILENCE


KNOWN: Sequence[KnownTimeout] = (
    KnownTimeout(15, ENVOY, "the default `timeout` of a route", Limits.SILENCE | Limits.ANSWER),
    KnownTimeout(30, HAPROXY, "`timeout server` or `timeout client` in many examples"),
    KnownTimeout(30, "CloudFront", "the default origin response timeout"),
    KnownTimeout(
        30,
        "Google's load balancer",
        "the default backend service timeout",
        Limits.SILENCE | Limits.ANSWER | Limits.BODY,
    ),
    KnownTimeout(55, "Heroku's router", "its fixed idle timeout"),
    KnownTimeout(60, NGINX, "the default `proxy_read_timeout`"),
    KnownTimeout(60, ALB, "the default idle timeout"),
    KnownTimeout(60, GO, "the default `readTimeout` of Traefik", Limits.BODY),
    KnownTimeout(60, HAPROXY, "`timeout server` or `timeout client` in many examples"),
    KnownTimeout(75, NGINX, "`proxy_read_timeout` in this project's nginx.conf"),
    KnownTimeout(75, HAPROXY, "`timeout server` and `timeout client` in this project's haproxy.cfg"),
    KnownTimeout(75, CADDY, "`read_timeout` in this project's Caddyfile"),
    KnownTimeout(100, CLOUDFLARE, "its proxy read timeout until 2026"),
    KnownTimeout(125, CLOUDFLARE, "its proxy read timeout"),
    KnownTimeout(240, "Azure's load balancer", "the default TCP idle timeout"),
    KnownTimeout(300, ENVOY, "the default `stream_idle_timeout`"),
    KnownTimeout(350, "AWS NLB", "the fixed or default TCP idle timeout, also of NAT gateways"),
)
MIN_TOLERANCE_SECONDS = 1.0
TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Owner:
    """The proxy that probably has this time-out, or None; and the reason, as a sentence."""

    hop: str | None
    why: str


def owner(seconds: float, hops: Sequence[str], limits: Limits = Limits.SILENCE) -> Owner:
    """The proxy that cuts what `limits` names after `seconds`, on a path with these recognised `hops`.

    A recognised proxy that is known for this time-out wins, then the only recognised proxy, then the only one that is known
    for it.
    """
    near = [
        known
        for known in KNOWN
        if limits in known.limits and abs(known.seconds - seconds) <= _tolerance(known.seconds)
    ]
    for known in near:
        if known.hop in hops:
            return Owner(known.hop, f"{known.seconds:g} s is {known.name} in {known.hop}.")
    if len(hops) == 1:
        return Owner(hops[0], f"The only proxy that was recognised on this path is {hops[0]}.")
    if len(hops) > 1:
        return Owner(None, f"It is set by one of: {', '.join(hops)}.")
    if len(near) == 1:
        return Owner(near[0].hop, f"{near[0].seconds:g} s is {near[0].name} in {near[0].hop}.")
    if near:
        return Owner(
            None, "It may be " + ", or ".join(f"{known.name} in {known.hop}" for known in near) + "."
        )
    return Owner(None, f"No proxy is known for {seconds:.0f} s; it was set by hand.")


def _tolerance(seconds: float) -> float:
    return max(MIN_TOLERANCE_SECONDS, seconds * TOLERANCE)
