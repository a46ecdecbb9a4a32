"""What a supervisor and its workers say to each other arrives as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.process.worker_protocol import Orders, Report
from broker.settings import RetentionOverride, Settings


def test_settings_arrive_whatever_the_workers_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        port=1,
        redis_url="redis://user:pass@127.0.0.1/3",
        cors_origins=("https://a.example", "https://b.example"),
        retention_overrides={"a.*": RetentionOverride(events=3), "**": RetentionOverride(seconds=0.5)},
        tls_cert=Path("cert.pem"),
        tls_key=Path("key.pem"),
        access_log=True,
    )
    monkeypatch.setenv("BROKER_PORT", "2")
    monkeypatch.setenv("BROKER_WORKERS", "3")
    monkeypatch.setenv("BROKER_DATA", "elsewhere")
    line = Orders(settings, [5, 6]).encode()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    arrived = Orders.decode(line)
    assert arrived.settings == settings
    assert arrived.sockets == [5, 6]


@pytest.mark.parametrize("report", [Report("http://[::1]:1", "redis at x"), Report(error='"no"\nline')])
def test_reports_arrive(report: Report) -> None:
    assert report.encode().count(b"\n") == 1
    assert Report.decode(report.encode()) == report
