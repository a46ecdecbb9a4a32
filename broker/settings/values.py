"""The types of settings: how a value is read from text and checked.

Rules: a check raises `ValueError`; pydantic adds the setting's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

from broker.auth.keys import BadKey, VerificationKey, public_key, secret
from broker.errors import BrokerError
from broker.hosts import DEFAULT_PORTS, NAME, split_port
from broker.topics import check_pattern

MAX_SECONDS = 315_360_000
"""Ten years: an upper limit for all durations."""

_OPAQUE_SCHEMES = frozenset({"about", "blob", "data", "file", "javascript"})
"""Pages with such an address have no origin of their own (HTML standard, "origin")."""
_SECRETS_FORM = 'write a JSON list of texts, ["…"]; broker token --new-secret prints one with a new secret'

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
SecondsOrZero = Annotated[float, Field(ge=0, le=MAX_SECONDS)]


class RetentionOverride(BaseModel):
    """The retention of the topics of one pattern; None leaves the default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    events: int | None = Field(None, ge=1)
    bytes: int | None = Field(None, ge=1)
    seconds: Seconds | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if name not in cls.model_fields:
                    raise ValueError(f"{name!r} is unknown; write {', '.join(cls.model_fields)}")
        return value


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


def _check_hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(host if host == "*" else _normalize_host(host) for host in value)


def _normalize_host(text: str) -> str:
    """A host without a default port, in lower case; what a URL has around it is dropped."""
    rest = re.sub(r"^https?://", "", text.lower())
    name, port = split_port(rest.removesuffix("/"))
    if name.count(":") > 1 and not name.startswith("["):
        name = f"[{name}]"
    if not _is_host(name, port):
        raise ValueError(
            f"{text!r} is not a host; write name, name:port, *.name for all names below it, or * for all{_in_ascii(name)}"
        )
    return name.removesuffix(".") + ("" if port in ("", *DEFAULT_PORTS.values()) else f":{port}")


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(origin if origin == "*" else _normalize_origin(origin) for origin in value)


def _normalize_origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without the scheme's default port (RFC 6454 §6.2)."""
    scheme, _, rest = text.lower().partition("://")
    if text.lower() == "null" or scheme.partition(":")[0] in _OPAQUE_SCHEMES:
        raise ValueError(f"{text!r}: browsers send the origin null for such pages, which only * allows")
    name, port = split_port(rest)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not _is_host(name, port):
        raise ValueError(
            f"{text!r} is not an origin; write scheme://host or scheme://host:port, with nothing behind it, "
            f"or scheme://*.name for all hosts below a name{_in_ascii(name)}"
        )
    return f"{scheme}://{name}" + ("" if port in ("", DEFAULT_PORTS.get(scheme)) else f":{port}")


def _is_host(name: str, port: str) -> bool:
    """Whether this is a name in lower case, perhaps with `*.` before it, or an address, and a port or ""."""
    if port and not 1 <= int(port[:6]) <= 65535:
        return False
    if re.fullmatch(rf"(\*\.)?{NAME}\.?", name):
        return True
    try:
        return name.startswith("[") and name.endswith("]") and bool(IPv6Address(name[1:-1]))
    except ValueError:
        return False


def _in_ascii(text: str) -> str:
    """The end of an error: how browsers write a name that isn't ASCII."""
    try:
        return "" if text.isascii() else f"; browsers write {text.encode('idna').decode()}"
    except UnicodeError:
        return ""


def _check_headers(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or name == "*":
            raise ValueError(f"{name!r} is not the name of a header")
    return value


def _parse_networks(value: object) -> object:
    """Networks in place of their texts. Others are left to the type."""
    value = _split(value)
    return tuple(map(_parse_network, value)) if isinstance(value, list | tuple) else value


def _parse_network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither an address nor a network such as 10.0.0.0/8; names are not looked up"
        ) from None
    raise ValueError(f"{value!r} is an address within a network; write {network}")


def _parse_secrets(value: object) -> object:
    """The list in a text. The error never quotes it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(_SECRETS_FORM) from None
    if not isinstance(value, list | tuple) or not all(isinstance(text, str | SecretStr) for text in value):
        raise ValueError(_SECRETS_FORM)
    return value


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


COMMA_SEPARATED = BeforeValidator(_split)
_JSON = BeforeValidator(_parse_json)

HostNames = Annotated[tuple[str, ...], NoDecode, COMMA_SEPARATED, AfterValidator(_check_hosts)]
HeaderNames = Annotated[tuple[str, ...], NoDecode, COMMA_SEPARATED, AfterValidator(_check_headers)]
Origins = Annotated[tuple[str, ...], NoDecode, COMMA_SEPARATED, AfterValidator(_check_origins)]
Anonymous = Annotated[tuple[Literal["publish", "subscribe"], ...], NoDecode, COMMA_SEPARATED]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_parse_networks)]
PublicKeyFiles = Annotated[tuple[Path, ...], NoDecode, COMMA_SEPARATED, AfterValidator(_check_public_keys)]
Secrets = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    BeforeValidator(_parse_secrets),
    AfterValidator(_check_secrets),
    PlainSerializer(_reveal, when_used="json"),  # a supervisor sends them to its workers
]
Overrides = Annotated[dict[str, RetentionOverride], NoDecode, _JSON, AfterValidator(_check_patterns)]
Directory = Annotated[Path | None, BeforeValidator(_check_directory)]
