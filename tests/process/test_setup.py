"""What every process sets up at its start."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

from tests.support.broker_process import BrokerProcess


def test_soft_descriptor_limit_is_raised() -> None:
    with BrokerProcess() as broker:
        limits = Path(f"/proc/{broker.pid}/limits").read_text()
        soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()  # type: ignore[union-attr]
        assert soft == hard


def test_the_log_can_be_json(tmp_path: Path) -> None:
    """Of the supervisor and of each worker, access log included."""
    with BrokerProcess(log_format="json", data=tmp_path / "data", workers=2, access_log=True) as broker:
        broker.publish("news", "x")
        assert broker.terminate() == 0
        lines = broker.output.splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    others = [line for line in lines if not line.startswith("{") and not re.match(r"\d+:", line)]
    assert [line.split(",")[0] for line in others] == [f"broker: listening on {broker.url}"], (
        "except for Valkey's own"
    )
    assert {("broker", "info"), ("broker.access", "info")} <= {
        (line["logger"], line["level"]) for line in logged
    }
    assert len({line["pid"] for line in logged}) >= 2
    for line in logged:
        assert list(line)[:5] == ["time", "level", "logger", "pid", "message"]
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    messages = [line["message"] for line in logged]
    assert any("POST /topics/news" in message for message in messages)
    (request,) = [line for line in logged if line["logger"] == "broker.access"]
    assert (request["method"], request["target"], request["status"]) == ("POST", "/topics/news?", 201)
    assert "SIGTERM: draining all workers" in messages


def test_the_start_is_logged_with_what_differs_from_the_defaults() -> None:
    secret = "s" * 40
    with BrokerProcess(
        log_format="json", jwt_secrets=json.dumps([secret]), retention_events=7, jwt_audience="us"
    ) as broker:
        assert broker.terminate() == 0
        output = broker.output
    (started,) = [
        line
        for line in map(json.loads, filter(_is_json, output.splitlines()))
        if line["message"] == "started"
    ]
    assert started["urls"] == [broker.url]
    assert started["store"] == "memory"
    assert started["version"]
    assert (
        started["settings"].items()
        >= {"retention_events": 7, "jwt_audience": "us", "jwt_secrets": ["…"]}.items()
    )
    assert "heartbeat_seconds" not in started["settings"], "it has its default"
    assert secret not in output


def _is_json(line: str) -> bool:
    return line.startswith("{")
