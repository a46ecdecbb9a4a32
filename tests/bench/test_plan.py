"""The plan of a run: the settings that it refuses, and how it splits connections."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from broker.bench import BenchError, Load, measure, plan


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "http://192.0.2.1/t"}, "not on loopback"),
        ({"url": "http://127.0.0.1/t", "publish_url": "http://192.0.2.1/t"}, "not on loopback"),
        ({"url": "https://127.0.0.1/t"}, "use a URL of the form http://"),
        ({"url": "http://127.0.0.1:x/t"}, "port"),
        ({"url": "http://127.0.0.1/t", "topics": 2}, "{n}"),
        ({"url": "http://127.0.0.1/t", "size": 5}, "--size 5"),
        ({"url": "http://127.0.0.1/t", "replay": 5}, "--connects"),
        ({"url": "http://127.0.0.1/t", "ndjson": True}, "--rate 0"),
        ({"url": "http://127.0.0.1/t", "headers": ("nonsense",)}, "--header"),
        ({"url": "http://127.0.0.1/t", "subscribers": 0, "publishers": 0}, "nothing to do"),
        ({"url": "http://127.0.0.1/t", "subscribers": -1}, "negative"),
    ],
)
def test_an_invalid_load_is_refused_before_it_starts(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BenchError) as raised:
        measure(Load(**fields))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_error_for_too_many_connections_names_a_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1100, 1100))
    load = Load("http://127.0.0.1/t", subscribers=2500, processes=2)
    with pytest.raises(BenchError, match="use --processes 3"):
        plan.shares(load)
    assert len(plan.shares(Load("http://127.0.0.1/t", subscribers=2500))) == 3


def test_many_connections_come_from_several_addresses() -> None:
    target = plan.resolve("http://127.0.0.1/t", Load("http://127.0.0.1/t"))
    assert plan.source_address(9_999, 10_000, target) is None
    assert plan.source_address(0, 50_000, target) == "127.0.0.1"
    assert plan.source_address(49_999, 50_000, target) == "127.0.0.5"
