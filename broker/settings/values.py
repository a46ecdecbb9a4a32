"""The types of settings: how a value is read from text and checked.

Rules: a check raises `ValueError`; pydantic adds the setting's name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr
from pydantic_settings import NoDecode

from broker.auth.keys import BadKey, VerificationKey, public_key, secret
from broker.errors import BrokerError
from broker.topics import check_pattern

DEFAULT_PORTS = {"http": 80, "https": 443}

MAX_SECONDS = 315_360_000
"""Ten years: an upper limit for all durations."""

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
SecondsOrZero = Annotated[float, Field(ge=0, le=MAX_SECONDS)]


class RetentionOverride(BaseModel):
    """The retention of the topics of one pattern; None leaves the default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    events: int | None = Field(None, ge=1)
    bytes: int | None = Field(None, ge=1)
    seconds: Seconds | None = None


def read_public_key(path: Path) -> VerificationKey:
    """The key in a PEM file. Raises `BadKey`, which names the file."""
    try:
        return public_key(path.read_bytes())
    except OSError as error:
        raise BadKey(f"can't read {path}: {error.strerror}") from None
    except BadKey as error:
        raise BadKey(f"{path}: {error}") from None


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _parse_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("it is not valid JSON") from None


def _check_directory(value: object) -> object:
    if value == "":  # as a path, this would be the working directory
        raise ValueError("it names no directory")
    return value


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(origin if origin == "*" else _normalize_origin(origin) for origin in value)


def _normalize_origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without the scheme's default port (RFC 6454 §6.2)."""
    parts = urlsplit(text.lower())
    scheme, host = parts.scheme, parts.hostname
    is_origin = text.lower() == f"{scheme}://{parts.netloc}" and "@" not in parts.netloc
    if scheme not in DEFAULT_PORTS or not host or not is_origin:
        raise ValueError(f"{text!r} is not an origin; write scheme://host or scheme://host:port")
    port = "" if parts.port in (None, DEFAULT_PORTS[scheme]) else f":{parts.port}"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _check_secrets(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for text in value:
        secret(text.get_secret_value())
    return value


def _reveal(value: Sequence[SecretStr]) -> list[str]:
    return [text.get_secret_value() for text in value]


def _check_public_keys(value: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in value:
        read_public_key(path)
    return value


def _check_patterns(value: dict[str, RetentionOverride]) -> dict[str, RetentionOverride]:
    for pattern in value:
        try:
            check_pattern(pattern)
        except BrokerError as error:
            raise ValueError(f"{pattern!r}: {error.detail}") from None
    return value


_COMMA_SEPARATED = BeforeValidator(_split)
_JSON = BeforeValidator(_parse_json)

HostNames = Annotated[tuple[str, ...], NoDecode, _COMMA_SEPARATED]
Origins = Annotated[tuple[str, ...], NoDecode, _COMMA_SEPARATED, AfterValidator(_check_origins)]
Anonymous = Annotated[tuple[Literal["publish", "subscribe"], ...], NoDecode, _COMMA_SEPARATED]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, _COMMA_SEPARATED]
PublicKeyFiles = Annotated[tuple[Path, ...], NoDecode, _COMMA_SEPARATED, AfterValidator(_check_public_keys)]
Secrets = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    _JSON,
    AfterValidator(_check_secrets),
    PlainSerializer(_reveal, when_used="json"),  # a supervisor sends them to its workers
]
Overrides = Annotated[dict[str, RetentionOverride], NoDecode, _JSON, AfterValidator(_check_patterns)]
Directory = Annotated[Path | None, BeforeValidator(_check_directory)]
