"""The address of the server: parsed from the setting `redis_url`, and opened as a connection.

Rules: the only module that reads such a URL. redis-py opens connections: TLS, authentication, database, Sentinel.

    redis://[[user]:password@]host[:port][/database]          rediss:// for TLS
    unix://[[user]:password@]/path/to/socket[?db=number]
    redis+sentinel://[[user]:password@]host[:port][,host[:port] …]/service[/database]      rediss+sentinel:// for TLS

The user and password of a Sentinel URL are for the server. Those of the Sentinels are `?sentinel_username=` and
`?sentinel_password=`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

CONNECT_SECONDS = 2.0
SENTINEL_SECONDS = 0.5
PORT = 6379
SENTINEL_PORT = 26379

_KINDS: Mapping[str, type[Any]] = {
    "redis": Connection,
    "rediss": SSLConnection,
    "unix": UnixDomainSocketConnection,
    "redis+sentinel": Connection,
    "rediss+sentinel": SSLConnection,
}
_SCHEMES = tuple(_KINDS)
_UNREADABLE = "host and port can't be read; in a user or password, write / as %2F, ? as %3F, # as %23, @ as %40, : as %3A"
_SENTINEL = "the form with Sentinels is redis+sentinel://host:26379,other:26379/service/database"

_OPTIONS: Mapping[str, Any] = {
    "protocol": 2,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": CONNECT_SECONDS,
    "client_name": "sse-broker",
    "driver_info": None,  # it would send a command that older servers don't know
}


class Address(Protocol):
    """Where a server is, and how to connect to it.

    Attributes:
        shown: the address for logs, without passwords.
    """

    @property
    def shown(self) -> str: ...

    @property
    def database(self) -> int: ...

    async def connect(self) -> AbstractConnection:
        """An open, authenticated connection. Raises `redis.RedisError` or `OSError`."""


@dataclass(frozen=True, slots=True)
class Direct:
    """One server at a fixed address."""

    shown: str
    database: int
    kind: type[AbstractConnection]
    options: Mapping[str, Any]

    async def connect(self) -> AbstractConnection:
        connection = self.kind(**self.options)
        await _open(connection)
        return connection


@dataclass(frozen=True, slots=True)
class BySentinel:
    """The present master of a service, found by Sentinels."""

    shown: str
    database: int
    kind: type[Connection]
    options: Mapping[str, Any]
    sentinels: tuple[tuple[str, int], ...]
    sentinel_options: Mapping[str, Any]
    service: str

    async def connect(self) -> AbstractConnection:
        asked = Sentinel(self.sentinels, sentinel_kwargs=dict(self.sentinel_options))  # type: ignore[no-untyped-call]
        async with asked as sentinel:
            host, port = await sentinel.discover_master(self.service)
        connection = self.kind(host=host, port=port, **self.options)
        await _open(connection)
        return connection


async def _open(connection: AbstractConnection) -> None:
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)  # redis-py doesn't after a cancellation
        raise


def parse(url: str) -> Address:
    """The address in `url`.

    Raises:
        ValueError: the URL is malformed. The error never quotes it: an unescaped password can turn up in any part.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"the URL must start with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    if parts.scheme.endswith("+sentinel"):
        return _by_sentinel(parts)
    if parts.scheme == "unix":
        return _by_socket(url, parts)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if host is None and parts.netloc:
        raise ValueError(_UNREADABLE)
    if not _is_number(parts.path.strip("/") or "0"):
        raise ValueError("the path must be the number of a database")
    shown = f"[{host}]" if host and ":" in host else host or "localhost"
    return _direct(f"{parts.scheme}://{shown}:{port or PORT}", url, parts.scheme)


def _by_socket(url: str, parts: SplitResult) -> Direct:
    if not parts.path or parts.netloc.rpartition("@")[2]:
        raise ValueError("the form for a socket is unix:///path/to/socket, with three slashes")
    return _direct(f"unix://{unquote(parts.path)}", url, parts.scheme)


def _direct(shown: str, url: str, scheme: str) -> Direct:
    options = _options(url)
    kind = options.pop("connection_class", _KINDS[scheme])
    return Direct(shown, options["db"], kind, _checked(kind, options))


def _options(url: str) -> dict[str, Any]:
    """Options for redis-py's connections."""
    options: dict[str, Any] = dict(parse_url(url))
    database = options.setdefault("db", 0)
    if database < 0:
        raise ValueError("the number of a database can't be negative")
    return options


def _checked(kind: type[AbstractConnection], options: dict[str, Any]) -> Mapping[str, Any]:
    """The options, checked. The protocol is always RESP2, which `link` parses."""
    options = {**_OPTIONS, **options, "protocol": 2}
    try:
        kind(**options)
    except (TypeError, ValueError, RedisError):
        raise ValueError("redis-py knows no such parameter after the ?") from None
    return options


def _by_sentinel(parts: SplitResult) -> BySentinel:
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    sentinels = tuple(_host_and_port(host) for host in hosts.split(","))
    if not service or not _is_number(database or "0"):
        raise ValueError(_SENTINEL)
    options = _options(f"redis://?{parts.query}")
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    options = {**options, **_credentials(credentials), "db": int(database or 0)}
    kind = _KINDS[parts.scheme]
    return BySentinel(
        shown=f"{parts.scheme}://{hosts}/{service}",
        database=int(database or 0),
        kind=kind,
        options=_checked(kind, options),
        sentinels=sentinels,
        sentinel_options={
            **{name: value for name, value in own.items() if value is not None},
            "socket_connect_timeout": SENTINEL_SECONDS,
            "socket_timeout": SENTINEL_SECONDS,
            "protocol": 2,
        },
        service=service,
    )


def _credentials(text: str) -> dict[str, str]:
    user, _, password = text.partition(":")
    given = {"username": unquote(user), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # an IPv6 address in brackets
        host, port = text, str(SENTINEL_PORT)
    host = host.strip("[]")
    if not host or not _is_number(port):
        raise ValueError(_SENTINEL)
    return host, int(port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
