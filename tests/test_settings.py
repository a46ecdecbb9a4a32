"""Settings from flags and environment, and their help."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from broker.process.worker import WorkerConfig
from broker.settings import Settings
from broker.settings.environment import environment_warnings
from broker.topics import Retention
from tests.support.broker_process import BrokerProcess, run_serve


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


# The environment of a pod

SERVICE_LINKS = {
    "BROKER_PORT": "tcp://10.96.0.17:8080",
    "BROKER_PORT_8080_TCP": "tcp://10.96.0.17:8080",
    "BROKER_PORT_8080_TCP_ADDR": "10.96.0.17",
    "BROKER_PORT_8080_TCP_PORT": "8080",
    "BROKER_PORT_8080_TCP_PROTO": "tcp",
    "BROKER_SERVICE_HOST": "10.96.0.17",
    "BROKER_SERVICE_PORT": "8080",
    "BROKER_SERVICE_PORT_HTTP": "8080",
    "BROKER_METRICS_PORT": "tcp://10.96.0.18:9100",
    "BROKER_METRICS_SERVICE_HOST": "10.96.0.18",
    "BROKER_HOST_PORT": "udp://10.96.0.19:53",
}
"""What Kubernetes sets for Services named broker, broker-metrics and broker-host."""


def test_the_service_links_of_kubernetes_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.port, settings.metrics_port, settings.host) == (8080, None, "127.0.0.1")
    assert Settings(port=1).port == 1


def test_a_service_link_with_the_name_of_a_setting_is_warned_of() -> None:
    warnings = list(environment_warnings(SERVICE_LINKS, Settings.model_fields))
    assert [warning.partition("=")[0] for warning in warnings] == ["BROKER_METRICS_PORT", "BROKER_PORT"]
    assert all("Kubernetes" in warning for warning in warnings)


def test_a_broker_starts_beside_a_service_of_its_name() -> None:
    with BrokerProcess(environment=SERVICE_LINKS) as broker:
        assert "BROKER_PORT=tcp://10.96.0.17:8080 is ignored" in broker.output


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BROKER_PROT", "BROKER_PORT"),
        ("broker_prot", "BROKER_PORT"),
        ("BROKER_REDISURL", "BROKER_REDIS_URL"),
        ("BROKER_JWT_SECRET", "BROKER_JWT_SECRETS"),
        ("BROKER_CORS_ORIGIN", "BROKER_CORS_ORIGINS"),
        ("BROKER_LOG_LEVLE", "BROKER_LOG_LEVEL"),
        ("BROKER_TOKNE", "BROKER_TOKEN"),
        ("BROKER_PORT", None),
        ("BROKER_URL", None),
        ("BROKER_TOKEN", None),
        ("BROKER_IMAGE_DIGEST", None),
        ("BROKER_", None),
        ("PROT", None),
    ],
)
def test_a_misspelt_variable_is_warned_of(variable: str, meant: str | None) -> None:
    warnings = list(environment_warnings({variable: "a secret"}, Settings.model_fields))
    assert len(warnings) == (meant is not None)
    for warning in warnings:
        assert warning.startswith(variable)
        assert f"did you mean {meant}?" in warning
        assert "secret" not in warning.removeprefix(variable).replace("SECRETS", "")
