"""Where the server is, and how a connection to it is opened.

Rules: the one place that reads a store's URL. redis-py opens connections (TLS, authentication, database, Sentinel); what is
said on them afterwards is `link`'s business.

    redis://[[user]:password@]host[:port][/database]          rediss:// for TLS
    unix://[[user]:password@]/path/to/socket[?db=number]
    redis+sentinel://[[user]:password@]host[:port][,host[:port] …]/service[/database]      rediss+sentinel:// for TLS

The user and password of a Sentinel URL are the server's; Sentinels have their own, as `?sentinel_username=` and
`?sentinel_password=`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel

CONNECT_SECONDS = 2.0
SENTINEL_SECONDS = 0.5
SENTINEL_PORT = 26379

_OPTIONS: Mapping[str, Any] = {
    "protocol": 2,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": CONNECT_SECONDS,
    "client_name": "sse-broker",
}


class Address(Protocol):
    """A server to be found.

    Attributes:
        shown: the address as it may stand in a log: without passwords.
        database: number of the database.
    """

    @property
    def shown(self) -> str: ...

    @property
    def database(self) -> int: ...

    async def connect(self) -> AbstractConnection:
        """An open, authenticated connection. Raises `redis.RedisError` or `OSError`."""


@dataclass(frozen=True, slots=True)
class Direct:
    """One server, by its address."""

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
    """The present master of a service, as Sentinels know it."""

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
        await connection.disconnect(nowait=True)  # which redis-py leaves to us where it was cancelled
        raise


def parse(url: str) -> Address:
    """The address that `url` writes.

    Raises:
        ValueError: it is none; the text says what is wrong with it, and shows no password.
    """
    scheme = url.partition("://")[0]
    if scheme.endswith("+sentinel"):
        return _by_sentinel(url)
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except (ValueError, TypeError) as error:
        raise ValueError(str(error)) from None
    kind = options.pop("connection_class", Connection)
    if scheme == "unix" and "path" not in options:
        raise ValueError("a unix:// URL names the path of a socket")
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    database = int(options.get("db", 0))
    return Direct(f"{scheme}://{where}", database, kind, {**_OPTIONS, **options})


def _by_sentinel(url: str) -> BySentinel:
    parts = urlsplit(url)
    if parts.scheme not in ("redis+sentinel", "rediss+sentinel"):
        raise ValueError(f"{parts.scheme}:// is not known; write redis+sentinel:// or rediss+sentinel://")
    credentials, _, hosts = parts.netloc.rpartition("@")
    sentinels = tuple(_host_and_port(host) for host in hosts.split(",") if host)
    service, _, database = parts.path.strip("/").partition("/")
    if not sentinels or not service or not (database or "0").isdigit():
        raise ValueError("a Sentinel URL is redis+sentinel://host:26379,host2:26379/service/database")
    query = dict(parse_qsl(parts.query))
    own = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    options = {**_OPTIONS, **_credentials(credentials), **query, "db": int(database or 0)}
    tls = parts.scheme.startswith("rediss")
    return BySentinel(
        shown=f"{parts.scheme}://{hosts}/{service}",
        database=int(database or 0),
        kind=SSLConnection if tls else Connection,
        options=options,
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
    if not colon or text.endswith("]"):  # an IPv6 address stands in brackets
        return text.strip("[]"), SENTINEL_PORT
    if not port.isdigit():
        raise ValueError(f"{port!r} is no port")
    return host.strip("[]"), int(port)
