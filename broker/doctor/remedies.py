"""What to change for each finding, proxy by proxy.

Rules: one or two sentences each, with the directive's own name. `broker` is a setting of the broker itself, `any` is for every
proxy.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.doctor.hops import ALB, CADDY, CLOUDFLARE, ENVOY, GO, HAPROXY, NGINX, TRAEFIK

ANY = "any"
BROKER = "broker"

_NO_CHANGE_AT_ALB = "An ALB passes it on unchanged: look at the proxy behind it."
_IDLE = {
    NGINX: "Set `proxy_read_timeout 75s;` and `proxy_send_timeout 75s;`.",
    HAPROXY: "Set `timeout server 75s` and `timeout client 75s`; `timeout tunnel` doesn't apply to streams.",
    CADDY: "Set `read_timeout 75s` in `transport http` of `reverse_proxy`, or remove it; the same for `timeouts` in `servers`.",
    ENVOY: "Set `timeout: 0s` on the route, and a `stream_idle_timeout` of at least 75 s.",
    TRAEFIK: "Set `respondingTimeouts.writeTimeout: 0` on the entry point and `responseHeaderTimeout: 0` in the transport.",
    ALB: "Raise the attribute `idle_timeout.timeout_seconds` (60 by default).",
    CLOUDFLARE: "The proxy read timeout is fixed except for Enterprise: keep --heartbeat-seconds well below it.",
    BROKER: "Set --heartbeat-seconds to less than half of the time-out.",
}

REMEDIES: Mapping[str, Mapping[str, str]] = {
    "tls": {
        NGINX: "Renew the certificate (`ssl_certificate`), and reload nginx: it reads the file only then.",
        HAPROXY: "Renew the file of `bind … ssl crt`, and reload HAProxy.",
        CADDY: "Caddy renews by itself: see its log for why it could not.",
        ENVOY: "Renew the certificate; serve it by SDS, so that Envoy takes it without a restart.",
        TRAEFIK: "See the log of the certificate resolver for why it could not renew.",
        ALB: "Renew the certificate in ACM; check that its DNS validation record still exists.",
        CLOUDFLARE: "Check the edge certificate under SSL/TLS, and use an https:// URL.",
    },
    "http2": {
        NGINX: "Write `listen 443 ssl http2;`, or `http2 on;` from nginx 1.25.1 on.",
        HAPROXY: "Add `alpn h2,http/1.1` to the `bind` line with `ssl`.",
        CADDY: "Serve the site by https; HTTP/2 is then on, unless `protocols` leaves out h2.",
        ENVOY: "Use `codec_type: AUTO`, and `alpn_protocols: [h2, http/1.1]` in the TLS context.",
        TRAEFIK: "Serve by an entry point with TLS; HTTP/2 is then on, unless `alpnProtocols` leaves out h2.",
        ALB: "Use an HTTPS listener: HTTP/2 is on by default (`routing.http2.enabled`).",
        CLOUDFLARE: "Turn on HTTP/2 under Speed, Protocol Optimization.",
    },
    "base-path": {
        NGINX: "Make `location` cover the whole prefix, and leave the path out of `proxy_pass`.",
        HAPROXY: "Let `path_beg` cover the whole prefix, and don't change the path.",
        CADDY: "Use `handle /prefix/*`, not `handle_path`, which strips the prefix.",
        ENVOY: "Match `prefix`, without `prefix_rewrite`.",
        TRAEFIK: "Use `PathPrefix`, without the `stripPrefix` middleware.",
        ALB: "Let the path pattern of the rule cover the whole prefix.",
        CLOUDFLARE: "Check Transform Rules and Workers routes for the prefix.",
        BROKER: "Set --base-path to the prefix.",
    },
    "host": {
        NGINX: "Set `proxy_set_header Host $http_host;`.",
        HAPROXY: "Remove `http-request set-header Host`.",
        CADDY: "Remove `header_up Host`; Caddy passes Host on by default.",
        ENVOY: "Remove `host_rewrite_literal` and `auto_host_rewrite`.",
        TRAEFIK: "Set `passHostHeader: true` on the service.",
        ALB: "Turn on the attribute `routing.http.preserve_host_header.enabled`.",
        CLOUDFLARE: "Remove Host Header Overrides from Origin Rules.",
    },
    "forwarded": {
        NGINX: "Set `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;` and `proxy_set_header X-Forwarded-Proto $scheme;`.",
        HAPROXY: "Set `option forwardfor`, and `http-request set-header X-Forwarded-Proto https if { ssl_fc }`.",
        CADDY: "Remove `header_up -X-Forwarded-…`; Caddy sets both headers by default.",
        ENVOY: "Set `use_remote_address: true`.",
        TRAEFIK: "Traefik sets both headers; set `forwardedHeaders.trustedIPs` if another proxy is in front of it.",
        ALB: "Set the attribute `routing.http.xff_header_processing.mode` to append.",
        CLOUDFLARE: "Cloudflare sets both headers: look at the proxy behind it.",
        BROKER: "Set --trusted-proxies, and --forwarded-header.",
    },
    "shared-store": {
        ANY: "Give all brokers one Redis or Valkey server (`--redis-url`), or run one broker with `--workers` and `--data`.",
    },
    "buffering": {
        NGINX: "Set `proxy_buffering off;` in the location, and remove X-Accel-Buffering from `proxy_ignore_headers`.",
        HAPROXY: "Set `option http-no-delay`, and remove `http-response wait-for-body`.",
        CADDY: "Remove `response_buffers` (`buffer_responses`) from `reverse_proxy`.",
        ENVOY: "Remove the `file_system_buffer` filter for this route, and Lua filters that ask for the `body()` of an answer.",
        TRAEFIK: "Remove the `buffering` middleware from this router, and set `responseForwarding.flushInterval: -1`.",
        ALB: "An ALB passes events on at once, except from a Lambda target: use an instance or IP target.",
        CLOUDFLARE: "Turn off response buffering for this host. Quick tunnels (trycloudflare.com) buffer: use a named tunnel.",
    },
    "compression": {
        NGINX: "Set `gzip off;` (and `brotli off;`) in the location, or remove text/event-stream from `gzip_types`.",
        HAPROXY: "Remove text/event-stream from `compression type`.",
        CADDY: "Remove `encode` for this path, or exclude text/event-stream by its `match`.",
        ENVOY: "Disable the `compressor` filter on this route, or remove text/event-stream from its `content_type`.",
        TRAEFIK: "Add text/event-stream to `excludedContentTypes` of the `compress` middleware.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Add a Compression Rule that disables compression for this path.",
    },
    "chunking": {
        NGINX: "Set `proxy_http_version 1.1;`, and don't set `chunked_transfer_encoding off;`.",
        HAPROXY: "HAProxy passes chunks on: look at the proxy behind it.",
        CADDY: "Remove `versions` from `transport http`, and any handler that sets Content-Length.",
        ENVOY: "Remove the `file_system_buffer` filter for this route.",
        TRAEFIK: "Remove the `buffering` middleware.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Look at the proxy behind it, and at Workers that read the whole body.",
    },
    "stream-headers": {
        NGINX: "Remove `expires`, `add_header Cache-Control`, `proxy_hide_header` and `default_type` for this location.",
        HAPROXY: "Remove `http-response set-header` and `del-header` for Cache-Control and Content-Type.",
        CADDY: "Remove `header` and `header_down` for Cache-Control and Content-Type.",
        ENVOY: "Remove `response_headers_to_add` and `response_headers_to_remove` for Cache-Control and Content-Type.",
        TRAEFIK: "Remove `customResponseHeaders` for Cache-Control and Content-Type.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Set Browser Cache TTL to Respect Existing Headers, and check Transform Rules.",
    },
    "heartbeats": _IDLE,
    "idle-timeout": _IDLE,
    "stream-duration": {
        NGINX: "Check `worker_shutdown_timeout` and how often nginx is reloaded; nginx has no limit of its own.",
        HAPROXY: "Check `hard-stop-after` and how often HAProxy is reloaded; it has no limit of its own.",
        CADDY: "Remove `stream_timeout` and the `write` time-out of `servers`.",
        ENVOY: "Set `timeout: 0s` on the route, and remove `max_stream_duration`.",
        TRAEFIK: "Set `respondingTimeouts.writeTimeout: 0` on the entry point.",
        ALB: "An ALB has no such limit: look at the proxy behind it.",
        CLOUDFLARE: "Look at Workers and at the proxy behind it.",
    },
    "request-buffering": {
        NGINX: "Set `proxy_request_buffering off;` and `proxy_http_version 1.1;`.",
        HAPROXY: "Remove `option http-buffer-request` and `http-request wait-for-body`.",
        CADDY: "Remove `request_buffers` (`buffer_requests`) from `reverse_proxy`.",
        ENVOY: "Remove the `buffer` filter for this route, and the `request` of a `file_system_buffer` filter.",
        TRAEFIK: "Remove the `buffering` middleware.",
        ALB: "An ALB passes bodies on as they arrive, except to a Lambda target.",
        CLOUDFLARE: "Turn off request buffering for this host, or publish past Cloudflare.",
    },
    "body-duration": {
        NGINX: "Check `worker_shutdown_timeout` and how often nginx is reloaded; `client_body_timeout` only limits silence.",
        HAPROXY: "Remove `option http-buffer-request` and `http-request wait-for-body`; `timeout http-request` then ends with the head.",
        CADDY: "For POST, remove `read_timeout` from `transport http` of `reverse_proxy`; remove `read_body` and `write` from `timeouts` in `servers`.",
        ENVOY: "Remove `request_timeout`, `max_stream_duration` and `max_connection_duration`.",
        TRAEFIK: "Set `respondingTimeouts.readTimeout: 0` (by default 60 s) and `writeTimeout: 0` on the entry point.",
        ALB: "An ALB has no such limit: look at the proxy behind it.",
        CLOUDFLARE: "Look at Workers, or publish past Cloudflare.",
    },
    "last-event-id": {
        NGINX: 'Remove `proxy_set_header Last-Event-ID "";`, and `proxy_pass_request_headers off;`.',
        HAPROXY: "Remove `http-request del-header Last-Event-ID`.",
        CADDY: "Remove `header_up -Last-Event-ID`.",
        ENVOY: "Remove last-event-id from `request_headers_to_remove`.",
        TRAEFIK: "Remove Last-Event-ID from `customRequestHeaders`.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Check Transform Rules that remove request headers.",
    },
    "reconnect": {
        ANY: "Look at the connection time-outs, DNS, and the number of free connections to the broker; give streams their own upstream.",
        BROKER: "Look at the CPU and the number of streams; see Size in the guide on operating.",
    },
    "gap": {
        ANY: "Pass events on as they are: a hop must not filter the body of a stream.",
        BROKER: "Update the broker.",
    },
    "end-of-topic": {
        NGINX: "Remove `error_page 204` and rewrites of the status; nginx passes 204 on.",
        HAPROXY: "Remove `http-response set-status` for 204.",
        CADDY: "Remove `handle_response` for 204.",
        ENVOY: "Remove Lua filters and custom response policies that change 204.",
        TRAEFIK: "Remove 204 from the `errors` middleware.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Check Workers and Snippets that change the status.",
    },
    "error-statuses": {
        NGINX: "Remove `proxy_intercept_errors on;`, or the `error_page` for 4xx.",
        HAPROXY: "Remove `http-response return` and `set-status` for 4xx.",
        CADDY: "Remove `handle_response` for 4xx.",
        ENVOY: "Remove custom response policies (`local_response_policy`) and Lua filters for 4xx.",
        TRAEFIK: "Remove 4xx from `status` of the `errors` middleware.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Remove Custom Errors for 4xx.",
    },
    "authorization": {
        NGINX: 'Remove `proxy_set_header Authorization "";`, and `auth_basic` for this location.',
        HAPROXY: "Remove `http-request del-header Authorization` and `http-request auth`.",
        CADDY: "Remove `header_up -Authorization` and `basicauth`.",
        ENVOY: "Remove authorization from `request_headers_to_remove`; set `forward: true` in the JWT filter.",
        TRAEFIK: "Set `removeHeader: false` in the `basicAuth` middleware, or remove it.",
        ALB: "Remove `authenticate-oidc` and JWT validation from the listener rule.",
        CLOUDFLARE: "Check Access policies and Transform Rules for this path.",
    },
    "query-token": {
        NGINX: "Leave the URI out of `proxy_pass`, or add `$is_args$args` to it; remove rewrites that end with `?`.",
        HAPROXY: "Remove `http-request set-query` and `set-uri` without the query.",
        CADDY: "Remove `uri query` and rewrites without `{query}`.",
        ENVOY: "Remove `regex_rewrite` and Lua filters that change the query.",
        TRAEFIK: "Remove the `replacePathRegex` middleware and plug-ins that change the query.",
        ALB: _NO_CHANGE_AT_ALB,
        CLOUDFLARE: "Check URL Rewrite Rules for the query.",
    },
    "cors": {
        NGINX: "Remove `add_header Access-Control-…`, and let OPTIONS reach the broker.",
        HAPROXY: "Remove `http-response add-header Access-Control-…`, and let OPTIONS reach the broker.",
        CADDY: "Remove `header Access-Control-…`, and let OPTIONS reach the broker.",
        ENVOY: "Remove the `cors` filter for this route.",
        TRAEFIK: "Remove `accessControl…` from the `headers` middleware.",
        ALB: "Remove the listener attributes `routing.http.response.access_control_…`.",
        CLOUDFLARE: "Remove CORS settings of Access and of Transform Rules.",
        BROKER: "Let the broker answer: name the origins in --cors-origins.",
    },
    "caching": {
        NGINX: "Set `proxy_cache off;`, and remove Cache-Control from `proxy_ignore_headers`.",
        HAPROXY: "Remove `http-request cache-use` for this path.",
        CADDY: "Remove the `cache` handler for this path.",
        ENVOY: "Disable the `cache` filter on this route.",
        TRAEFIK: "Remove caching plug-ins from this router.",
        ALB: "An ALB has no cache: look at CloudFront before it.",
        CLOUDFLARE: "Add a Cache Rule that bypasses the cache for this host.",
    },
    "clock": {
        ANY: "Set the clock by NTP (chrony, systemd-timesyncd) on every machine of the path and of the store.",
    },
}
"""By code, then by proxy."""


_WRITTEN_IN_GO = frozenset({CADDY, TRAEFIK})


def remedies_for(code: str, hop: str | None) -> Mapping[str, str]:
    """What to change for a finding: at `hop` if the table knows it, else at whichever proxy it may be."""
    table = REMEDIES.get(code, {})
    names = _WRITTEN_IN_GO if hop == GO else {hop}
    if not names & table.keys():
        return table
    return {name: text for name, text in table.items() if name in (*names, ANY, BROKER)}
