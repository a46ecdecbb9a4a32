"""The settings of the group "Listening"."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from broker.settings import Settings


@pytest.mark.parametrize(
    ("given", "base_path"),
    [
        ("", ""),
        ("/", ""),
        ("//", ""),
        ("/events", "/events"),
        ("/events/", "/events"),
        ("/a/b.c~d_e-1", "/a/b.c~d_e-1"),
    ],
)
def test_a_base_path_loses_its_last_slash(given: str, base_path: str) -> None:
    assert Settings(base_path=given).base_path == base_path


@pytest.mark.parametrize("given", ["events", "/a//b", "/..", "/a/./b", "/a b", "/%41", "/a?b", "/a#b", "/é"])
def test_a_base_path_that_no_request_has_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="is not a path"):
        Settings(base_path=given)


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("127.0.0.1, ::1", ("127.0.0.1", "::1")),
        ("localhost,localhost", ("localhost",)),
    ],
)
def test_hosts_are_separated_by_commas(host: str, hosts: tuple[str, ...]) -> None:
    settings = Settings.model_validate({"host": host})
    assert settings.host == settings.metrics_hosts() == hosts
    assert settings.is_open()


@pytest.mark.parametrize("host", ["*", "127.0.0.1,10.0.0.7", "::"])
def test_one_host_that_others_can_reach_needs_access_control(host: str) -> None:
    with pytest.raises(ValidationError, match="other machines can reach"):
        Settings.model_validate({"host": host})
    assert not Settings.model_validate({"host": host, "anonymous": "subscribe"}).is_open()


def test_a_unix_socket_alone_is_open_whatever_the_host() -> None:
    alone = Settings.model_validate({"host": "0.0.0.0", "port": "none", "unix_socket": "/run/b"})
    assert alone.is_open()
    both = {"host": "0.0.0.0", "unix_socket": "/run/b"}
    with pytest.raises(ValidationError, match="other machines can reach"):
        Settings.model_validate(both)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"host": ""}, "names no address"),
        ({"port": "none"}, "needs unix_socket"),
        ({"port": "None", "unix_socket": ""}, "names no file"),
        ({"unix_socket_mode": "999"}, "unix_socket_mode"),
        ({"unix_socket_mode": "rw"}, "unix_socket_mode"),
        ({"proxy_protocol": True}, "trusted_proxies"),
        ({"max_head_bytes": 100}, "max_head_bytes"),
        ({"keepalive_seconds": 0}, "keepalive_seconds"),
        ({"worker_timeout_seconds": -1}, "worker_timeout_seconds"),
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Settings.model_validate(settings)
