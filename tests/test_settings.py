"""Settings from flags and environment, and their help."""

from __future__ import annotations

import argparse
import json
import re

import pytest
from pydantic import ValidationError

from broker.cli import serve
from broker.cli.common import setting_error_text
from broker.descriptors import available_descriptors
from broker.process.worker import WorkerConfig
from broker.settings import Settings
from broker.settings.environment import environment_warnings
from broker.settings.table import GROUPS
from broker.topics import Retention
from tests.support.broker_process import BrokerProcess, run_serve
from tests.support.run_here import run_here
from tests.support.waiting import wait_for


def test_every_setting_is_in_the_help() -> None:
    text = run_here("serve", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text


def test_the_help_has_groups() -> None:
    """Each group of the help begins with its first setting; all settings are in one."""
    text = run_here("serve", "--help").stdout
    titles = [line[:-1] for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert titles == list(GROUPS)
    for title, first in GROUPS.items():
        assert f"{title}:\n  --{first.replace('_', '-')} VALUE" in text
    assert next(iter(GROUPS.values())) == next(iter(Settings.model_fields))


def test_access_log_needs_no_value() -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    for words, expected in (
        ([], False),
        (["--access-log"], True),
        (["--access-log", "--port", "1"], True),
        (["--access-log=false"], False),
        (["--access-log", "true"], True),
    ):
        assert serve.read_settings(parser.parse_args(words)).access_log is expected


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
        ([], {"BROKER_LOG_FORMAT": "xml"}, "log_format"),
        (["--access-log", "maybe"], {}, "access_log"),
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
    done = run_here("serve", *flags, **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert named in line
    assert "hush" not in line, "a secret isn't shown"


@pytest.mark.parametrize(
    ("flags", "environment", "line"),
    [
        (["--port", "x"], {}, "port: must be a valid integer (given: 'x')"),
        ([], {"BROKER_PORT": "x"}, "port: must be a valid integer (given: 'x', by BROKER_PORT)"),
        (["--port", "x"], {"BROKER_PORT": "8080"}, "port: must be a valid integer (given: 'x')"),
        (
            ["--port", "70000"],
            {},
            "port: must be less than or equal to 65535 (given: '70000')",
        ),
        (
            [],
            {"BROKER_LOG_FORMAT": "xml"},
            "log_format: must be 'text' or 'json' (given: 'xml', by BROKER_LOG_FORMAT)",
        ),
    ],
)
def test_the_line_says_what_the_setting_must_be_and_which_variable_has_it(
    flags: list[str], environment: dict[str, str], line: str
) -> None:
    assert run_here("serve", *flags, **environment).stderr == f"broker: {line}\n"


ORIGINS = {
    "https://*.Example.com": "https://*.example.com",
    "https://*.example.com:443": "https://*.example.com",
    "https://*.example.com:8443": "https://*.example.com:8443",
    "capacitor://localhost": "capacitor://localhost",
    "ionic://localhost": "ionic://localhost",
    "tauri://localhost": "tauri://localhost",
    "app://-": "app://-",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop": "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc": "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
    "tauri://localhost:443": "tauri://localhost:443",
    "HTTP://[::1]:80": "http://[::1]",
    "https://xn--bcher-kva.example": "https://xn--bcher-kva.example",
}


@pytest.mark.parametrize("given", ORIGINS)
def test_an_origin_is_taken_as_browsers_write_it(given: str) -> None:
    assert Settings(cors_origins=f"https://a.example,{given}").cors_origins == (
        "https://a.example",
        ORIGINS[given],
    )


BAD_VALUES = [
    # (setting, value, part of the message)
    ("cors_origins", "example.com", "scheme://host:port"),
    ("cors_origins", "https://example.com/", "nothing behind it"),
    ("cors_origins", "https://example.com/path", "nothing behind it"),
    ("cors_origins", "https://*", "scheme://*.name"),
    ("cors_origins", "https://*.*.example.com", "scheme://*.name"),
    ("cors_origins", "https://a.*.example.com", "scheme://*.name"),
    ("cors_origins", "https://*example.com", "scheme://*.name"),
    ("cors_origins", "*.example.com", "scheme://*.name"),
    ("cors_origins", "https://example.com:x", "scheme://host:port"),
    ("cors_origins", "https://example.com:0", "scheme://host:port"),
    ("cors_origins", "https://example.com:99999", "scheme://host:port"),
    ("cors_origins", "https://user@example.com", "scheme://host"),
    ("cors_origins", "https://", "scheme://host"),
    ("cors_origins", "://example.com", "scheme://host"),
    ("cors_origins", "https://[::1", "scheme://host"),
    ("cors_origins", "https://bücher.example:1", "browsers write xn--bcher-kva.example"),
    ("cors_origins", "null", "only * allows"),
    ("cors_origins", "file://", "only * allows"),
    ("cors_origins", "file:///srv/page.html", "only * allows"),
    ("cors_headers", "X-Trace, a b", "'a b' is not the name of a header"),
    ("cors_headers", "*", "is not the name of a header"),
    ("allowed_hosts", "https://h.example/path", "name:port"),
    ("allowed_hosts", "ftp://h.example", "name:port"),
    ("allowed_hosts", "user@h.example", "name:port"),
    ("allowed_hosts", "h.example:port", "name:port"),
    ("allowed_hosts", "h.example:0", "name:port"),
    ("allowed_hosts", "a.*.example", "*.name for all names below it"),
    ("allowed_hosts", "*h.example", "*.name for all names below it"),
    ("allowed_hosts", "*.*", "*.name for all names below it"),
    ("allowed_hosts", "*:443", "* for all"),
    ("allowed_hosts", "https://", "name:port"),
    ("allowed_hosts", "/", "name:port"),
    ("allowed_hosts", "10.0.0.0/8", "name:port"),
    ("allowed_hosts", "a..b", "name:port"),
    ("allowed_hosts", "bücher.example", "xn--bcher-kva.example"),
    ("trusted_proxies", "nginx", "names are not looked up"),
    ("trusted_proxies", "10.0.0.1,nginx.internal", "'nginx.internal' is neither an address nor a network"),
    ("trusted_proxies", "10.0.0.1/8", "write 10.0.0.0/8"),
    ("trusted_proxies", "10.0.0.1:80", "neither an address nor a network"),
    ("jwt_secrets", "hush", '["…"]'),
    ("jwt_secrets", '{"hush": 1}', '["…"]'),
    ("jwt_secrets", '["hush", 7]', '["…"]'),
    ("jwt_secrets", '"hush"', '["…"]'),
    (
        "retention_overrides",
        '{"a.*": {"evnts": 1}}',
        "retention_overrides: a.*: 'evnts' is unknown; write events",
    ),
    ("retention_overrides", '{"a.*": {"events": 0}}', "retention_overrides: a.*: events: "),
    ("retention_overrides", '{"a.*": 3}', "retention_overrides: a.*: "),
    ("retention_overrides", '{"a..b": {}}', "a..b"),
]


@pytest.mark.parametrize(("name", "value", "part"), BAD_VALUES)
def test_a_bad_value_is_explained(name: str, value: str, part: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({name: value})
    text = setting_error_text(caught.value)
    assert text.startswith(name)
    assert part in text
    assert "hush" not in text, "a secret isn't shown"


def test_a_valid_setting_that_does_something_else_is_warned_of() -> None:
    public = Settings(host="0.0.0.0", anonymous="subscribe")
    assert "allowed_hosts" in "".join(public.warnings())
    for quiet in (
        Settings(host="0.0.0.0", anonymous="subscribe", allowed_hosts="events.example"),
        Settings(anonymous="subscribe"),
        Settings(max_connections=available_descriptors()),
        Settings(),
    ):
        assert not list(quiet.warnings())


def test_more_connections_than_descriptors_are_warned_of() -> None:
    with BrokerProcess(max_connections=1000, descriptors=500) as broker:
        assert re.search(r"WARNING broker: max_connections: 1000 .* allows 436;", broker.output)


def test_retention_overrides_can_be_a_flag() -> None:
    done = run_here("serve", "--retention-overrides", '{"a.*": {"events": 3}}', "--port", "70000")
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
    assert (done.returncode, done.stdout) == (2, "")
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
    assert (settings.port, settings.metrics_port, settings.host) == (8080, None, ("127.0.0.1",))
    assert Settings(port=1).port == 1


def test_a_service_link_with_the_name_of_a_setting_is_warned_of() -> None:
    warnings = list(environment_warnings(SERVICE_LINKS, Settings.model_fields))
    assert [warning.partition("=")[0] for warning in warnings] == ["BROKER_METRICS_PORT", "BROKER_PORT"]
    assert all("Kubernetes" in warning for warning in warnings)


def test_a_broker_starts_beside_a_service_of_its_name() -> None:
    with BrokerProcess(environment=SERVICE_LINKS) as broker:
        wait_for(
            lambda: "BROKER_PORT=tcp://10.96.0.17:8080 is ignored" in broker.output, "the line in the output"
        )


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host/0", "redis://…@host/0"),
        ("rediss://user:se%40cret@host", "rediss://…@host"),
        ("redis://user:se@cr/et@host", "redis://…@host"),
        ("unix://:secret@/run/valkey.sock?db=1", "unix://…@/run/valkey.sock?…"),
        ("redis+sentinel://a:1,b:2/main?sentinel_password=secret", "redis+sentinel://a:1,b:2/main?…"),
    ],
)
def test_what_is_logged_of_the_settings_has_no_secret(url: str, shown: str) -> None:
    settings = Settings.model_validate(
        {
            "redis_url": url,
            "jwks_url": "https://me:secret@keys.example/jwks?key=secret",
            "trace_url": "https://me:secret@collector.example/v1/traces",
            "jwt_secrets": ["a secret of more than thirty-two bytes", "and another secret, which is as long"],
            "retention_overrides": {"a.**": {"events": 5}},
            "workers": 2,
        }
    )
    changed = settings.changed()
    assert "secret" not in json.dumps(changed, default=str).replace("jwt_secrets", "")
    assert changed["redis_url"] == shown
    assert changed["jwks_url"] == "https://…@keys.example/jwks?…"
    assert changed["jwt_secrets"] == ["…", "…"]
    assert changed["workers"] == 2
    assert "host" not in changed


def test_the_defaults_are_not_logged() -> None:
    assert Settings().changed() == {}
