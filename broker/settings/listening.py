"""The settings of the group "Listening", and their types.

Rules: as in `table` and `values`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from broker.settings.values import COMMA_SEPARATED, Seconds, SecondsOrZero

ALL_ADDRESSES = "*"
"""The host that means all addresses of this machine, IPv4 and IPv6."""
_SEGMENT = r"[A-Za-z0-9._~-]+"


def _check_not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("it names no address")
    return tuple(dict.fromkeys(value))


def _parse_port(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _check_socket_path(value: object) -> object:
    if value == "":
        raise ValueError("it names no file")
    return value


def _check_base_path(value: str) -> str:
    """The path without its last slash; "" for the root."""
    path = value.rstrip("/")
    segments = path.split("/")[1:]
    if not re.fullmatch(rf"(/{_SEGMENT})*", path) or {".", ".."} & set(segments):
        raise ValueError(
            f"{value!r} is not a path; write /events, with letters, digits and - . _ ~ between the slashes"
        )
    return path


Hosts = Annotated[tuple[str, ...], NoDecode, COMMA_SEPARATED, AfterValidator(_check_not_empty)]
Port = Annotated[int | None, BeforeValidator(_parse_port)]
SocketFile = Annotated[Path | None, BeforeValidator(_check_socket_path)]
BasePath = Annotated[str, AfterValidator(_check_base_path)]


class ListeningTable(BaseSettings):
    """The fields about sockets, connections and paths."""

    host: Hosts = Field(
        ("127.0.0.1",),
        description="Addresses or names to listen on, comma-separated; * for all addresses, IPv4 and IPv6.",
    )
    port: Port = Field(
        8080,
        ge=0,
        le=65535,
        description="TCP port to listen on; 0 chooses a free one, none listens on no port.",
    )
    unix_socket: SocketFile = Field(
        None,
        description="Unix socket to listen on, by plain HTTP, besides the port. Limits by address don't count its clients.",
    )
    unix_socket_mode: str = Field(
        "660",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions of unix_socket as three octal digits.",
    )
    base_path: BasePath = Field(
        "",
        description="Path that all URLs begin with, such as /events, for a proxy that passes it on. /healthz, /readyz and /metrics are at the root too.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that share the port; more than one needs redis_url or data.",
    )
    worker_timeout_seconds: SecondsOrZero = Field(
        20,
        description="How long one of several workers may hang before it is killed and replaced, in seconds; 0: forever.",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file with the certificate chain; the broker then serves HTTPS."
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of tls_cert.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port for /metrics, /healthz and /readyz by plain HTTP, without a token. Each further worker uses the next port.",
    )
    metrics_host: Hosts | None = Field(
        None, description="Addresses that metrics_port listens on, as for host. By default, those of host."
    )
    proxy_protocol: bool = Field(
        False,
        description="true expects a PROXY header, version 1 or 2, at the start of each TCP connection from trusted_proxies. The flag needs no value for true.",
    )
    keepalive_seconds: Seconds = Field(
        75,
        description="How long an idle connection is kept for the next request, in seconds. Longer than your proxy keeps it.",
    )
    max_head_bytes: int = Field(
        16_384,
        ge=1024,
        le=1_048_576,
        description="Maximum size of a request's line and headers, in bytes. Cookies count.",
    )
