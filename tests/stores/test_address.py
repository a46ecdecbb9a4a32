"""What a store's URL says, and that no password in it is ever shown."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from broker.stores.redis.address import BySentinel, Direct, parse


@pytest.mark.parametrize(
    ("url", "shown", "database", "options"),
    [
        ("redis://", "redis://localhost:6379", 0, {}),
        ("redis://h", "redis://h:6379", 0, {"host": "h"}),
        ("redis://h:1/", "redis://h:1", 0, {"host": "h", "port": 1}),
        ("redis://h:1/7", "redis://h:1", 7, {"db": 7}),
        ("redis://h?db=7", "redis://h:6379", 7, {"db": 7}),
        ("redis://[::1]:1/7", "redis://[::1]:1", 7, {"host": "::1", "port": 1}),
        ("redis://:hidden@h/2", "redis://h:6379", 2, {"password": "hidden"}),
        ("redis://u:hidden@h", "redis://h:6379", 0, {"username": "u", "password": "hidden"}),
        ("redis://u:hid%2Fd%40n@h", "redis://h:6379", 0, {"password": "hid/d@n"}),
        ("redis://h?username=u&password=hidden", "redis://h:6379", 0, {"password": "hidden"}),
        ("redis://h?protocol=3", "redis://h:6379", 0, {"protocol": 2}),
        ("rediss://h?ssl_ca_certs=/ca.pem", "rediss://h:6379", 0, {"ssl_ca_certs": "/ca.pem"}),
        ("unix:///run/s", "unix:///run/s", 0, {"path": "/run/s"}),
        ("unix://u:hidden@/run/s?db=3", "unix:///run/s", 3, {"path": "/run/s", "password": "hidden"}),
    ],
)
def test_one_server(url: str, shown: str, database: int, options: dict[str, object]) -> None:
    address = parse(url)
    assert isinstance(address, Direct)
    assert (address.shown, address.database) == (shown, database)
    assert options.items() <= {**address.options}.items()
    kinds = {"redis": Connection, "rediss": SSLConnection, "unix": UnixDomainSocketConnection}
    assert address.kind is kinds[url.partition(":")[0]]


@pytest.mark.parametrize(
    ("url", "shown", "database", "sentinels"),
    [
        ("redis+sentinel://h/main", "redis+sentinel://h/main", 0, [("h", 26379)]),
        ("redis+sentinel://h:1,i:2/main/3", "redis+sentinel://h:1,i:2/main", 3, [("h", 1), ("i", 2)]),
        ("redis+sentinel://u:hidden@h,i:2/main", "redis+sentinel://h,i:2/main", 0, [("h", 26379), ("i", 2)]),
        (
            "rediss+sentinel://[::1]:5,[::2]/m",
            "rediss+sentinel://[::1]:5,[::2]/m",
            0,
            [("::1", 5), ("::2", 26379)],
        ),
    ],
)
def test_sentinels(url: str, shown: str, database: int, sentinels: list[tuple[str, int]]) -> None:
    address = parse(url)
    assert isinstance(address, BySentinel)
    assert (address.shown, address.database, list(address.sentinels)) == (shown, database, sentinels)
    assert address.service == shown.rpartition("/")[2]
    assert address.kind is (SSLConnection if url.startswith("rediss") else Connection)
    assert address.options.get("password") == ("hidden" if "hidden" in url else None)


def test_sentinels_have_users_of_their_own() -> None:
    query = "sentinel_username=s&sentinel_password=t&socket_timeout=1.5"
    address = parse(f"redis+sentinel://u:hidden@h/main?{query}")
    assert isinstance(address, BySentinel)
    own = {"username": "s", "password": "t"}
    assert own.items() <= {**address.sentinel_options}.items()
    assert {"username": "u", "password": "hidden", "socket_timeout": 1.5}.items() <= {
        **address.options
    }.items()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must start with one of redis://"),
        ("localhost:6379", "must start with one of redis://"),
        ("http://u:hidden@h", "must start with one of redis://"),
        ("memory+sentinel://u:hidden@h/main", "must start with one of redis://"),
        ("redis://u:hid/den@h:6379", "in a user or password"),
        ("redis://u:hid#den@h:6379", "in a user or password"),
        ("redis://u:hid?den@h:6379", "in a user or password"),
        ("redis://u:hid[den@h:6379", "in a user or password"),
        ("redis://:12/hidden@h", "in a user or password"),
        ("redis://h:hidden", "in a user or password"),
        ("redis://h:99999", "in a user or password"),
        ("redis://h/hidden", "number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h?db=hidden", "'db'"),
        ("redis://h?db=-1", "negative"),
        ("redis://h?hidden=1", "after the ?"),
        ("redis://h?socket_timeout=hidden", "'socket_timeout'"),
        ("unix://", "three slashes"),
        ("unix://run/s", "three slashes"),
        ("redis+sentinel://u:hidden@h", "form with Sentinels"),
        ("redis+sentinel://u:hidden@/main", "form with Sentinels"),
        ("redis+sentinel://u:hidden@h,/main", "form with Sentinels"),
        ("redis+sentinel://u:hid/den@h:1/main", "form with Sentinels"),
        ("redis+sentinel://h:hidden/main", "form with Sentinels"),
        ("redis+sentinel://h/main/hidden", "form with Sentinels"),
        ("redis+sentinel://h/main?hidden=1", "after the ?"),
    ],
)
def test_an_error_never_quotes_the_url(url: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    assert why in str(caught.value)
    assert "hid" not in str(caught.value) and "den" not in str(caught.value)
