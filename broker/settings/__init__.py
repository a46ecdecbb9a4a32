"""Settings: the flags and environment variables of `broker serve`.

    values       types: how a value is read and checked
    table        every setting with its default and description
    listening    those about listening, with their types
    environment  which variables are settings
    here         checks over several settings, and derived values

Rules: creating `Settings` checks everything, except that the store checks `redis_url`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Self

from pydantic import SecretStr, model_validator

from broker.auth.keys import VerificationKey, secret
from broker.descriptors import available_descriptors
from broker.hosts import is_loopback
from broker.settings.table import SettingsTable
from broker.settings.values import RetentionOverride as RetentionOverride
from broker.settings.values import read_public_key
from broker.topics import Retention, RetentionRules

MASK = "…"
"""Stands for a secret."""


class BadSetting(ValueError):
    """The operator's fault: a setting that only the code which uses it can judge is invalid.

    Attributes:
        name: the setting.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class Settings(SettingsTable):
    """The broker's settings, immutable. Arguments win over environment variables.

    Raises:
        pydantic.ValidationError: a setting is invalid; its `errors()` name the setting.
    """

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.retry_max_ms < self.retry_min_ms:
            raise ValueError("retry_max_ms is less than retry_min_ms")
        if self.log_memory_bytes < self.retention_bytes:
            raise ValueError("log_memory_bytes is less than retention_bytes, which a single topic may need")
        self._check_listening()
        self._check_store()
        self._check_access()
        self._check_traces()
        return self

    def _check_listening(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key must be set together")
        if self.port is None and self.unix_socket is None:
            raise ValueError("port: none needs unix_socket, else the broker listens nowhere")
        if self.proxy_protocol and not self.trusted_proxies:
            raise ValueError("proxy_protocol: set trusted_proxies to the addresses of the proxies")

    def _check_store(self) -> None:
        if self.data is not None and self.redis_url is not None:
            raise ValueError("data and redis_url exclude each other: each names a place for the events")
        if self.data is not None and self.redis_wait_replicas:
            raise ValueError("redis_wait_replicas must be 0 with data: that server has no replicas")
        if self.workers > 1 and self.data is None and self.redis_url is None:
            raise ValueError("workers: several need a shared store; set redis_url or data")

    def _check_access(self) -> None:
        if not (self.is_local() or self.has_keys() or self.anonymous):
            raise ValueError(
                f"host: other machines can reach {', '.join(self.host)}, and anyone could publish and subscribe. Set keys "
                "(--jwt-secrets, --jwt-public-keys or --jwks-url), or allow it: --anonymous publish,subscribe"
            )
        for name in ("jwt_audience", "jwt_issuer"):
            if getattr(self, name) is not None and not self.has_keys():
                raise ValueError(
                    f"{name}: without keys no token is verified; set jwt_secrets, jwt_public_keys or jwks_url"
                )

    def _check_traces(self) -> None:
        if self.trace_url is not None and not _is_installed("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError("trace_url needs the extra `otel`: pip install 'sse-broker[otel]'")

    def metrics_hosts(self) -> Sequence[str]:
        """What `metrics_port` listens on."""
        return self.host if self.metrics_host is None else self.metrics_host

    def warnings(self) -> Iterator[str]:
        """A line for each setting that is valid, but probably does something else than it should."""
        if self.anonymous and not self.is_local() and not self.allowed_hosts:
            yield (
                "anonymous: without a token, clients must use an address or a local name; "
                "set allowed_hosts to the public names of this broker"
            )
        available = available_descriptors()
        if self.max_connections is not None and self.max_connections > available:
            yield (
                f"max_connections: {self.max_connections} connections don't fit into the file descriptor limit, which allows "
                f"{available}; raise LimitNOFILE or `ulimit -n`"
            )

    def changed(self) -> dict[str, object]:
        """The settings that differ from their defaults, for logs: secrets, and what a URL may hold of them, are masked."""
        fields = type(self).model_fields
        return {
            name: _masked(value)
            for name, value in self
            if name in fields and value != fields[name].get_default(call_default_factory=True)
        }

    def has_keys(self) -> bool:
        """Whether there are keys to verify tokens; without them tokens are ignored."""
        return bool(self.jwt_secrets or self.jwt_public_keys or self.jwks_url)

    def is_open(self) -> bool:
        """Whether every caller may do everything: only this machine can connect, and no setting limits access."""
        return self.is_local() and not self.has_keys() and not self.anonymous

    def is_local(self) -> bool:
        """Whether only this machine can connect: by loopback addresses, or by the unix socket alone."""
        return self.port is None or all(map(is_loopback, self.host))

    def needs_client_addresses(self) -> bool:
        """Whether a limit counts by client address."""
        return bool(
            self.max_connections_per_address
            or self.max_connects_per_second_per_address
            or self.max_bodies_per_address
            or self.max_publishes_per_second
            or self.max_publish_bytes_per_second
        )

    def verification_keys(self) -> Sequence[VerificationKey]:
        """The keys of `jwt_secrets` and `jwt_public_keys`; reads the files. Raises `BadKey`."""
        return [
            *(secret(text.get_secret_value()) for text in self.jwt_secrets),
            *(read_public_key(path) for path in self.jwt_public_keys),
        ]

    def retention(self) -> RetentionRules:
        """The retention of every topic."""
        default = Retention(self.retention_events, self.retention_bytes, self.retention_seconds)
        overrides = tuple(
            (
                pattern,
                Retention(
                    override.events or default.events,
                    override.bytes or default.bytes,
                    override.seconds or default.seconds,
                ),
            )
            for pattern, override in self.retention_overrides.items()
        )
        retain = Retention(
            self.retain_events, min(self.retain_bytes, self.log_memory_bytes), self.retain_max_seconds
        )
        return RetentionRules(default, overrides, retain)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _masked(value: object) -> object:
    """A setting's value without secrets. A URL keeps neither its user and password, nor its query."""
    match value:
        case SecretStr():
            return MASK
        case tuple():
            return [_masked(each) for each in value]
        case dict():
            return {str(key): _masked(each) for key, each in value.items()}
        case bool() | int() | float() | None:
            return value
    text = str(value)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    before, at, rest = rest.rpartition("@")  # an unescaped password may contain anything
    rest, question, _ = rest.partition("?")
    return f"{scheme}://{MASK if before else ''}{at}{rest}{question}{MASK if question else ''}"
