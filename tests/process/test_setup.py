"""What every process sets up at its start."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime
from pathlib import Path

from broker.process.setup import JsonFormatter
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
        assert set(line) == {"time", "level", "logger", "pid", "message"}
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    messages = [line["message"] for line in logged]
    assert any("POST /topics/news" in message for message in messages)
    assert "SIGTERM: draining all workers" in messages


def test_a_json_log_has_tracebacks_on_one_line() -> None:
    try:
        raise ValueError("bad\nluck \u2028")
    except ValueError:
        record = logging.LogRecord(
            "broker", logging.ERROR, "", 1, "a %s: %s", ("defect", "ü"), sys.exc_info()
        )
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["message"], line["level"]) == ("a defect: ü", "error")
    assert "ValueError: bad\nluck" in line["exception"]
