"""What several commands share."""

from __future__ import annotations

import pytest

from broker.cli.common import default_url


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"BROKER_PORT": "18080"}, "http://127.0.0.1:18080"),
        ({"BROKER_PORT": "18080", "BROKER_URL": "https://events.example"}, "https://events.example"),
        ({"BROKER_PORT": "18080", "BROKER_URL": ""}, "http://127.0.0.1:18080"),
        ({"BROKER_PORT": "18080", "BROKER_BASE_PATH": "/events/"}, "http://127.0.0.1:18080/events"),
        ({"BROKER_PORT": "none", "BROKER_BASE_PATH": "/events"}, "http://127.0.0.1:8080/events"),
        ({"BROKER_PORT": "tcp://10.0.0.1:80"}, "http://127.0.0.1:8080"),
        ({"BROKER_PORT": "\u0661\u0662"}, "http://127.0.0.1:8080"),
    ],
)
def test_the_default_url_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str
) -> None:
    for name in ("BROKER_URL", "BROKER_PORT", "BROKER_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_url() == url
