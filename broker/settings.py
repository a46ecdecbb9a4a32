"""Every setting, with its unit, default and meaning: the one table that flags, environment and README are made from.

A setting is `--its-name` of `broker serve` and `BROKER_ITS_NAME` in the environment; the flag is stronger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from broker.errors import BrokerError
from broker.topics import Retention, RetentionRules, check_pattern

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
        (), description="origins whose pages may publish, as scheme://host:port; comma-separated"
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
    max_event_bytes: int = Field(262_144, ge=1, description="bytes of data in one event at most")
    retention_events: int = Field(1000, ge=1, description="events that a topic keeps for replay at most")
    retention_bytes: int = Field(1_048_576, ge=1, description="bytes that a topic keeps for replay at most")
    retention_seconds: float = Field(
        3600,
        gt=0,
        le=LONGEST_SECONDS,
        description="s that a topic keeps an event for replay at most",
    )
    retention_overrides: dict[str, RetentionOverride] = Field(
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
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    access_log: bool = Field(False, description="true logs a line for each request")

    @field_validator("allowed_hosts", "cors_origins", mode="before")
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
        for origin in value:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest:
                raise ValueError(f"{origin!r} is no origin; write scheme://host or scheme://host:port")
        return value

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
