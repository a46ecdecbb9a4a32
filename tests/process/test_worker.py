"""The messages between a supervisor and its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broker.process.setup import Endpoint, StartError
from broker.process.worker import WorkerConfig, decode_start, encode_start
from broker.settings import RetentionOverride, Settings


def test_settings_arrive_unchanged_by_the_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        port=1,
        host=("::1", "localhost"),
        unix_socket="/run/b.sock",
        base_path="/events/",
        redis_url="redis://user:pass@127.0.0.1/3",
        cors_origins=("https://a.example", "https://*.b.example:8443", "tauri://localhost", "*"),
        cors_headers=("X-Tenant",),
        allowed_hosts=("https://A.example:8443/", "*.b.example", "[::1]", "*"),
        trusted_proxies=("10.0.0.0/8", "2001:db8::1"),
        log_format="json",
        retention_overrides={"a.*": RetentionOverride(events=3), "**": RetentionOverride(seconds=0.5)},
        tls_cert=Path("cert.pem"),
        tls_key=Path("key.pem"),
        access_log=True,
    )
    monkeypatch.setenv("BROKER_PORT", "2")
    monkeypatch.setenv("BROKER_WORKERS", "3")
    monkeypatch.setenv("BROKER_DATA", "elsewhere")
    line = WorkerConfig(settings, [5, 6]).encode()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    arrived = WorkerConfig.decode(line)
    assert arrived.settings == settings
    assert arrived.descriptors == [5, 6]


def test_an_endpoint_arrives() -> None:
    line = encode_start(Endpoint(["http://[::1]:1", "unix:/x"], "redis at x"))
    assert line.count(b"\n") == 1
    assert decode_start(line) == Endpoint(["http://[::1]:1", "unix:/x"], "redis at x")


def test_a_start_error_is_raised_by_the_supervisor() -> None:
    line = encode_start(StartError('"no"\nline'))
    assert line.count(b"\n") == 1
    with pytest.raises(StartError, match=r'^"no"\nline$'):
        decode_start(line)


RECORD_COLLECTOR = """
import os, sys
from broker.process import worker
worker.relax_collector = lambda: os.write(2, b"with aiohttp" if "aiohttp" in sys.modules else b"without aiohttp")
worker.main()
"""


def test_the_collector_leaves_out_the_modules_of_an_instance() -> None:
    missing = Path("missing.pem")
    config = WorkerConfig(Settings(tls_cert=missing, tls_key=missing), [])  # so the start fails
    command = [sys.executable, "-c", RECORD_COLLECTOR]
    worker = subprocess.run(command, input=config.encode(), capture_output=True, check=False)
    assert worker.stderr == b"with aiohttp"
