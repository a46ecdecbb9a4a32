"""Every setting, with its unit, default and meaning: the one table that flags, environment and README are made from.

A setting is `--its-name` of `broker serve` and `BROKER_ITS_NAME` in the environment; the flag is stronger.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from broker.auth.keys import BadKey, VerificationKey, public_key, secret
from broker.errors import BrokerError
from broker.hosts import is_loopback
from broker.topics import MAX_TOPICS_PER_REQUEST, Retention, RetentionRules, check_pattern

_PORTS = {"http": 80, "https": 443}

LONGEST_SECONDS = 315_360_000  # ten years


class BadSetting(ValueError):
    """The operator's: a setting that only those who use it can judge is no good; `name` is the setting."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class RetentionOverride(BaseModel):
    """What the topics of one pattern retain; what is left out is as for all others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    events: int | None = Field(None, ge=1)
    bytes: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0, le=LONGEST_SECONDS)


def _origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without the scheme's own port (RFC 6454 §6.2)."""
    parts = urlsplit(text.lower())
    scheme, host = parts.scheme, parts.hostname
    if (
        scheme not in _PORTS
        or not host
        or text.lower() != f"{scheme}://{parts.netloc}"
        or "@" in parts.netloc
    ):
        raise ValueError(f"{text!r} is no origin; write scheme://host or scheme://host:port")
    shown = f"[{host}]" if ":" in host else host
    return (
        f"{scheme}://{shown}" if parts.port in (None, _PORTS[scheme]) else f"{scheme}://{shown}:{parts.port}"
    )


def _public_key(path: Path) -> VerificationKey:
    """The key in a file. Raises `BadKey`."""
    try:
        return public_key(path.read_bytes())
    except OSError as error:
        raise BadKey(f"can't read {path}: {error.strerror}") from None
    except BadKey as error:
        raise BadKey(f"{path}: {error}") from None


class Settings(BaseSettings):
    """The broker's settings. Raises `pydantic.ValidationError`, naming what is out of its rule."""

    model_config = SettingsConfigDict(env_prefix="BROKER_", extra="ignore", frozen=True, allow_inf_nan=False)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    workers: int = Field(
        1, ge=1, le=256, description="processes that share the port; more than one needs redis_url or data"
    )
    tls_cert: Path | None = Field(
        None, description="PEM file with the certificate chain; with it the broker serves HTTPS"
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names, beside the loopback ones, that requests may ask for on a loopback address; comma-separated",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins whose pages may subscribe and publish, as scheme://host:port, or * for all, which then get no credentials; comma-separated",
    )
    anonymous: Annotated[tuple[Literal["publish", "subscribe"], ...], NoDecode] = Field(
        (),
        description="what may be done without a token, publish or subscribe or both, comma-separated; on a loopback address without keys everything may",
    )
    jwt_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description='secrets of at least 32 bytes, any of which may have signed a token (HS256, HS384, HS512): JSON, ["…"]; better from the environment than as a flag, which others on the machine can see',
    )
    jwt_public_keys: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="PEM files of public keys or certificates (RSA, P-256, P-384, P-521, Ed25519), any of which may have signed a token; comma-separated",
    )
    jwks_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]",
        description="address of a JWK set, whose keys may have signed a token; fetched again every 5 minutes, and for a key that isn't known",
    )
    jwt_audience: str | None = Field(
        None,
        min_length=1,
        description="what a token's `aud` must name; without it a token that has one is refused",
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="what a token's `iss` must be")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port on which /metrics, /healthz and /readyz need no token, by plain HTTP; worker n has the n-th from there on",
    )
    data: Path | None = Field(
        None,
        description="directory in which a Valkey server of the broker's own keeps the events; needs the extra `embedded`; not together with redis_url",
    )
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey server that all instances share: redis://, rediss://, unix:// or redis+sentinel://; without it, and without data, the store is in memory",
    )
    redis_prefix: str = Field(
        "broker:",
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="what the names of all keys and channels in the server begin with",
    )
    redis_wait_replicas: int = Field(
        0, ge=0, le=100, description="replicas that must have an event before its publisher is answered"
    )
    failover_margin_ms: int = Field(
        10_000,
        ge=0,
        le=3_600_000,
        description="ms by which ids jump ahead when the server went back, over all that the lost one may have given out",
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        description="open streams at most; by default what the file-descriptor limit leaves room for",
    )
    max_connections_per_address: int = Field(
        0, ge=0, description="open streams of one client address at most, over all instances; 0 for no limit"
    )
    max_connections_per_subject: int = Field(
        0,
        ge=0,
        description="open streams with tokens of one subject (`sub`) at most, over all instances; 0 for no limit",
    )
    max_connects_per_second: float = Field(
        0, ge=0, description="new streams a second at most, on each instance; 0 for no limit"
    )
    max_topics_per_connection: int = Field(
        32, ge=1, le=MAX_TOPICS_PER_REQUEST, description="topics on one stream at most"
    )
    max_publishes_per_second: float = Field(
        0,
        ge=0,
        description="events that one subject, or without a token one address, may publish a second on each instance; 0 for no limit",
    )
    max_publish_bytes_per_second: float = Field(
        0, ge=0, description="bytes of events, likewise; 0 for no limit"
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (),
        description="addresses or networks of proxies that are believed where X-Forwarded-For or Forwarded say who the client is; comma-separated",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] | None = Field(
        None,
        description="the header that the trusted proxies write, x-forwarded-for or forwarded; by default either, and neither where both come and disagree",
    )
    heartbeat_seconds: float = Field(
        15, gt=0, le=LONGEST_SECONDS, description="s of silence on a stream before a heartbeat"
    )
    slow_seconds: float = Field(
        30, gt=0, le=LONGEST_SECONDS, description="s that a reader may take nothing before it is closed"
    )
    retry_min_ms: int = Field(2000, ge=0, description="ms, the least reconnect delay that clients are told")
    retry_max_ms: int = Field(
        5000, ge=0, description="ms, the greatest reconnect delay that clients are told"
    )
    head_seconds: float = Field(
        10, gt=0, le=LONGEST_SECONDS, description="s within which a request's head must come"
    )
    body_seconds: float = Field(
        30, gt=0, le=LONGEST_SECONDS, description="s within which a body that isn't streamed must come"
    )
    stream_idle_seconds: float = Field(
        600,
        ge=0,
        le=LONGEST_SECONDS,
        description="s for which nothing need come of a streamed body; 0 for ever",
    )
    max_event_bytes: int = Field(262_144, ge=1, description="bytes of data in one event at most")
    retention_events: int = Field(1000, ge=1, description="events that a topic keeps for replay at most")
    retention_bytes: int = Field(1_048_576, ge=1, description="bytes that a topic keeps for replay at most")
    retention_seconds: float = Field(
        3600,
        gt=0,
        le=LONGEST_SECONDS,
        description="s that a topic keeps an event for replay at most",
    )
    retention_overrides: Annotated[dict[str, RetentionOverride], NoDecode] = Field(
        {},
        description='other retention by topic pattern, the first match counts: JSON, {"orders.**": {"events": 10, "bytes": 4096, "seconds": 60}}',
    )
    retain_max_seconds: float = Field(
        86_400,
        gt=0,
        le=LONGEST_SECONDS,
        description="s that the publisher who opens a topic may have it keep events, with ?retain=",
    )
    retain_events: int = Field(100_000, ge=1, description="events that such a topic keeps at most")
    retain_bytes: int = Field(16_777_216, ge=1, description="bytes that such a topic keeps at most")
    log_memory_bytes: int = Field(
        268_435_456,
        ge=1,
        description="bytes of memory for all topics' events together; the least recently used go first",
    )
    max_topics: int = Field(
        100_000,
        ge=1,
        description="topics without subscribers that are remembered; the least recently used go first",
    )
    topic_memory_seconds: float = Field(
        604_800,
        gt=0,
        le=LONGEST_SECONDS,
        description="s that a topic's last id is remembered after its newest event",
    )
    idempotency_seconds: float = Field(
        300, gt=0, le=LONGEST_SECONDS, description="s that an Idempotency-Key is remembered"
    )
    idempotency_memory_bytes: int = Field(
        67_108_864,
        ge=1,
        description="bytes of memory for idempotency keys; beyond it publishing with a new key is refused",
    )
    producer_timeout_seconds: float = Field(
        30,
        gt=0,
        le=LONGEST_SECONDS,
        description="s after which a topic ends whose producer has gone away, where it has asked for that (`end=on-disconnect`)",
    )
    last_viewer_seconds: float = Field(
        0,
        ge=0,
        le=LONGEST_SECONDS,
        description="s that nobody watches after which the producer of a streamed body is asked to stop; 0 for never",
    )
    drain_notice_seconds: float = Field(
        0,
        ge=0,
        le=LONGEST_SECONDS,
        description="s between failing readiness and ending streams at SIGTERM",
    )
    drain_seconds: float = Field(
        10, ge=0, le=LONGEST_SECONDS, description="s over which streams are ended at SIGTERM"
    )
    max_age_seconds: float = Field(
        0,
        ge=0,
        le=LONGEST_SECONDS,
        description="s after which a stream is ended at the latest, somewhere in the last fifth of them, so that new instances fill up; 0 for never",
    )
    revocation_seconds: float = Field(
        86_400,
        gt=0,
        le=LONGEST_SECONDS,
        description="s that a revoked token is refused where the order doesn't say until when; at least as long as tokens are good for",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    access_log: bool = Field(False, description="true logs a line for each request")

    @field_validator("retention_overrides", "jwt_secrets", mode="before")
    @classmethod
    def _read_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("it is no JSON") from None

    @field_validator("jwt_secrets")
    @classmethod
    def _check_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for text in value:
            secret(text.get_secret_value())
        return value

    @field_serializer("jwt_secrets", when_used="json")
    def _reveal_secrets(self, value: tuple[SecretStr, ...]) -> list[str]:
        """For the pipe to a worker."""
        return [text.get_secret_value() for text in value]

    @field_validator("jwt_public_keys")
    @classmethod
    def _check_public_keys(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in value:
            _public_key(path)
        return value

    @field_validator(
        "allowed_hosts", "cors_origins", "anonymous", "jwt_public_keys", "trusted_proxies", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("data", mode="before")
    @classmethod
    def _check_data(cls, value: object) -> object:
        if value == "":  # which as a path would be the working directory
            raise ValueError("it names no directory")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(origin if origin == "*" else _origin(origin) for origin in value)

    @field_validator("retention_overrides")
    @classmethod
    def _check_patterns(cls, value: dict[str, RetentionOverride]) -> dict[str, RetentionOverride]:
        for pattern in value:
            try:
                check_pattern(pattern)
            except BrokerError as error:
                raise ValueError(f"{pattern!r}: {error.detail}") from None
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.retry_max_ms < self.retry_min_ms:
            raise ValueError("retry_max_ms is less than retry_min_ms")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.log_memory_bytes < self.retention_bytes:
            raise ValueError("log_memory_bytes is less than retention_bytes, which one topic may take")
        self._check_store()
        self._check_access()
        return self

    def _check_store(self) -> None:
        if self.data is not None and self.redis_url is not None:
            raise ValueError("data and redis_url exclude each other: each says where the events are")
        if self.data is not None and self.redis_wait_replicas:
            raise ValueError(
                "redis_wait_replicas must be 0 with data: the broker's own server has no replicas"
            )
        if self.workers > 1 and self.data is None and self.redis_url is None:
            raise ValueError("workers: more than one need a store that they share; give redis_url or data")

    def _check_access(self) -> None:
        if not (is_loopback(self.host) or self.has_keys() or self.anonymous):
            raise ValueError(
                f"host: {self.host} is reached from elsewhere, and anybody could publish and subscribe; say who may "
                "(--jwt-secrets, --jwt-public-keys or --jwks-url), or that all may: --anonymous publish,subscribe"
            )
        for name in ("jwt_audience", "jwt_issuer"):
            if getattr(self, name) is not None and not self.has_keys():
                raise ValueError(
                    f"{name}: without keys no token is looked at; give jwt_secrets, jwt_public_keys or jwks_url"
                )

    def has_keys(self) -> bool:
        """Whether tokens are looked at."""
        return bool(self.jwt_secrets or self.jwt_public_keys or self.jwks_url)

    def counts_addresses(self) -> bool:
        """Whether it matters where a client is."""
        return bool(
            self.max_connections_per_address
            or self.max_publishes_per_second
            or self.max_publish_bytes_per_second
        )

    def is_open(self) -> bool:
        """Whether everybody may do everything, since nobody but this machine is asked for it."""
        return is_loopback(self.host) and not self.has_keys() and not self.anonymous

    def keys(self) -> Sequence[VerificationKey]:
        """Those of `jwt_secrets` and `jwt_public_keys`, read anew. Raises `BadKey`."""
        return [
            *(secret(text.get_secret_value()) for text in self.jwt_secrets),
            *(_public_key(path) for path in self.jwt_public_keys),
        ]

    def retention(self) -> RetentionRules:
        """What each topic retains."""
        default = Retention(self.retention_events, self.retention_bytes, self.retention_seconds)
        return RetentionRules(
            default,
            tuple(
                (
                    pattern,
                    Retention(
                        override.events or default.events,
                        override.bytes or default.bytes,
                        override.seconds or default.seconds,
                    ),
                )
                for pattern, override in self.retention_overrides.items()
            ),
            Retention(
                self.retain_events, min(self.retain_bytes, self.log_memory_bytes), self.retain_max_seconds
            ),
        )
