"""URLs of a broker."""

from __future__ import annotations

import pytest

from broker.client import Client


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://u:p@h",
        "http://h/?q",
        "http://h/#f",
    ],
)
async def test_a_url_that_is_not_a_brokers_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|query|port|Port"):
        Client(url)


async def test_a_path_of_the_url_is_kept() -> None:
    assert Client("https://events.example:8443/a b/").url == "https://events.example:8443/a%20b"
