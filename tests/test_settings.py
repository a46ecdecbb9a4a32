"""Settings from flags and environment, and their help."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from broker.process.worker import WorkerConfig
from broker.settings import Settings
from broker.topics import Retention
from tests.support.broker_process import run_serve


def test_every_setting_is_in_the_help() -> None:
    text = run_serve("--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        (["--port", "70000"], {}, "port"),
        (["--port", "x"], {}, "port"),
        ([], {"BROKER_PORT": "-1"}, "port"),
        (["--heartbeat-seconds", "0"], {}, "heartbeat_seconds"),
        (["--retention-seconds", "inf"], {}, "retention_seconds"),
        (["--topic-memory-seconds", "nan"], {}, "topic_memory_seconds"),
        (["--slow-seconds", "1e12"], {}, "slow_seconds"),
        (["--host", ""], {}, "host"),
        (["--retention-overrides", "{"], {}, "retention_overrides"),
        (["--retention-overrides", '{"a..b": {"events": 1}}'], {}, "retention_overrides"),
        (["--retention-overrides", '{"a": {"evnts": 1}}'], {}, "retention_overrides"),
        (["--retry-min-ms", "9000"], {}, "retry_max_ms"),
        (["--tls-cert", "/nowhere"], {}, "tls_key"),
        (["--cors-origins", "example.com"], {}, "cors_origins"),
        ([], {"BROKER_RETENTION_OVERRIDES": "{"}, "retention_overrides"),
        (["--no-such-setting", "1"], {}, "--no-such-setting"),
        (["--host", "0.0.0.0"], {}, "--anonymous publish,subscribe"),
        (["--host", "::"], {}, "--anonymous publish,subscribe"),
        (["--host", "192.0.2.1"], {"BROKER_JWT_AUDIENCE": "x"}, "host"),
        (["--jwt-audience", "x"], {}, "jwt_audience"),
        (["--jwt-issuer", "x"], {}, "jwt_issuer"),
        (["--anonymous", "publish,admin"], {}, "anonymous"),
        (["--jwt-secrets", "hush"], {}, "jwt_secrets"),
        (["--jwt-secrets", '["hush"]'], {}, "jwt_secrets"),
        (["--jwt-secrets", '["hush", 7]'], {}, "jwt_secrets"),
        ([], {"BROKER_JWT_SECRETS": "hush"}, "jwt_secrets"),
        ([], {"BROKER_JWT_SECRETS": '{"hush": 1}'}, "jwt_secrets"),
        (["--jwt-secrets", '["-----BEGIN PUBLIC KEY-----hush hush hush"]'], {}, "jwt_secrets"),
        (["--jwt-public-keys", "/nowhere.pem"], {}, "/nowhere.pem"),
        (["--jwt-public-keys", __file__], {}, "jwt_public_keys"),
        (["--jwks-url", "ftp://login.example/"], {}, "jwks_url"),
        (["--metrics-port", "70000"], {}, "metrics_port"),
        (["--log-level", "loud"], {}, "log_level"),
        (["--workers", "0"], {}, "workers"),
        (["--workers", "2"], {}, "redis_url or data"),
        (["--data", ""], {}, "data"),
        (["--data", "d", "--redis-url", "redis://127.0.0.1"], {}, "exclude each other"),
        (["--data", "d", "--redis-wait-replicas", "1"], {}, "redis_wait_replicas"),
        (["--redis-url", "nonsense://x"], {}, "redis_url"),
    ],
    ids=str,
)
def test_bad_setting_stops_the_start_with_one_line(
    flags: list[str], environment: dict[str, str], named: str
) -> None:
    done = run_serve(*flags, **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert named in line
    assert "hush" not in line, "a secret isn't shown"


def test_retention_overrides_can_be_a_flag() -> None:
    done = run_serve("--retention-overrides", '{"a.*": {"events": 3}}', "--port", "70000")
    assert "port" in done.stderr


def test_secrets_are_hidden_except_from_workers() -> None:
    text = "a secret that is long enough, and never shown"
    settings = Settings(jwt_secrets=f'["{text}"]')
    assert text not in repr(settings)
    assert text not in str(settings.model_dump())
    assert WorkerConfig.decode(WorkerConfig(settings, [7]).encode()).settings == settings, (
        "a worker gets them"
    )


def test_a_flag_wins_over_the_environment() -> None:
    done = run_serve("--port", "70000", BROKER_PORT="70001")
    assert "70000" in done.stderr


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_RETENTION_EVENTS", "7")
    monkeypatch.setenv("BROKER_ALLOWED_HOSTS", "a.example, b.example")
    monkeypatch.setenv("BROKER_RETENTION_OVERRIDES", '{"a.*": {"events": 3}}')
    settings = Settings()
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.retention().of("a.b") == Retention(3, 1_048_576, 3600)
    assert settings.retention().of("a") == Retention(7, 1_048_576, 3600)


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
