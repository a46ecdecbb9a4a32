"""What to change for each finding, proxy by proxy.

Rules: one sentence each, with the directive's own name. `broker` is a setting of the broker itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.doctor.hops import ALB, CADDY, CLOUDFLARE, ENVOY, HAPROXY, NGINX, PROXIES, TRAEFIK

ANY = "any"
BROKER = "broker"

REMEDIES: Mapping[str, Mapping[str, str]] = {
    "buffering": {
        NGINX: "Set `proxy_buffering off;` in the location, and remove X-Accel-Buffering from `proxy_ignore_headers`.",
        HAPROXY: "Set `option http-no-delay`, and remove any `http-response wait-for-body`.",
        CADDY: "Remove `response_buffers` (`buffer_responses`) from `reverse_proxy`; set `flush_interval -1` if it still holds.",
        ENVOY: "Remove the `buffer` and `file_system_buffer` HTTP filters for this route.",
        TRAEFIK: "Remove the `buffering` middleware from this router; set `responseForwarding.flushInterval: -1`.",
        ALB: "An ALB doesn't buffer responses, except to a Lambda target: use an instance or IP target.",
        CLOUDFLARE: "Turn off response buffering (an Enterprise setting) for this host. Quick tunnels (trycloudflare.com) buffer: use a named tunnel.",
    },
}
"""By code, then by proxy."""


def remedies_for(code: str, hop: str | None) -> Mapping[str, str]:
    """What to change for a finding: at `hop` if it has a remedy of its own, else at every proxy."""
    table = REMEDIES.get(code, {})
    if hop in table:
        return {name: text for name, text in table.items() if name in (hop, ANY, BROKER)}
    if hop is not None and hop not in PROXIES:
        return table
    return table
