"""What several commands share."""

from __future__ import annotations

import pytest

from broker.cli.common import BrokerUrl, client_error_text, default_url
from broker.client import ClientError
from tests.cli.commands import run


@pytest.mark.parametrize(
    ("variables", "url", "source"),
    [
        ({}, "http://127.0.0.1:8080", "the default"),
        ({"BROKER_PORT": "18080"}, "http://127.0.0.1:18080", "BROKER_PORT"),
        (
            {"BROKER_PORT": "18080", "BROKER_URL": "https://events.example"},
            "https://events.example",
            "BROKER_URL",
        ),
        ({"BROKER_PORT": "18080", "BROKER_URL": ""}, "http://127.0.0.1:18080", "BROKER_PORT"),
        (
            {"BROKER_PORT": "18080", "BROKER_BASE_PATH": "/events/"},
            "http://127.0.0.1:18080/events",
            "BROKER_PORT and BROKER_BASE_PATH",
        ),
        (
            {"BROKER_PORT": "none", "BROKER_BASE_PATH": "/events"},
            "http://127.0.0.1:8080/events",
            "BROKER_BASE_PATH",
        ),
        ({"BROKER_PORT": "tcp://10.0.0.1:80"}, "http://127.0.0.1:8080", "the default"),
        ({"BROKER_PORT": "\u0661\u0662"}, "http://127.0.0.1:8080", "the default"),
    ],
)
def test_the_default_url_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, source: str
) -> None:
    for name in ("BROKER_URL", "BROKER_PORT", "BROKER_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (default_url(), default_url().source) == (url, source)


def test_the_error_for_an_unreachable_broker_says_where_its_url_comes_from() -> None:
    error = ClientError("unreachable", "No answer.")
    for source, told in (
        ("--url", "comes from --url"),
        ("BROKER_PORT", "comes from BROKER_PORT"),
        ("the default", "is the default; set another with --url or BROKER_URL"),
    ):
        text = client_error_text(error, BrokerUrl.of("http://a", source))
        assert text == f"No answer. (unreachable); the URL http://a {told}"
    refusal = ClientError("forbidden", "No.")
    assert client_error_text(refusal, BrokerUrl.of("http://a", "--url")) == "No. (forbidden)"


def test_a_bad_url_is_reported_with_its_source() -> None:
    done = run("localhost:8080", "topics")
    assert done.returncode == 2
    assert b"(from BROKER_URL)" in done.stderr
    done = run("http://a", "topics", "--url", "localhost:8080")
    assert done.returncode == 2
    assert b"(from" not in done.stderr
