"""The steps of the Dockerfile, and the Compose file, tested without Docker."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from ruamel.yaml import YAML

from broker.process import health
from broker.settings import Settings
from tests.live.proxies import NAMES
from tests.support.broker_process import BrokerProcess
from tests.support.child_process import ChildProcess
from tests.support.dockerfile import ROOT, Instruction, Stage, build, instructions
from tests.support.http import exchange, request
from tests.support.ports import free_port
from tests.support.run_folder import RUN_FOLDER
from tests.support.waiting import WAIT_SECONDS, wait_for

pytestmark = pytest.mark.timeout(3000)  # the image takes a while on a busy machine
IMAGE_WHEEL = ROOT / ".cache" / "image-wheel"
COMPOSE = ROOT / "deploy" / "compose.yaml"


# The Dockerfile


@pytest.fixture(scope="module")
def image() -> Stage:
    """The result of the Dockerfile, readable for all users and writable for none, made once for all processes of the run."""
    shared = Path(os.environ[RUN_FOLDER])
    kept = shared / "image.pickle"
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait for the one that builds
        if not kept.exists():
            made = build(shared)
            if os.environ.get("CI") == "true":
                keep_wheel(shared / "build" / "wheels")
            made.folder.chmod(0o555)
            kept.write_bytes(pickle.dumps(made))
    stage = pickle.loads(kept.read_bytes())
    assert isinstance(stage, Stage)
    return stage


def keep_wheel(wheels: Path) -> None:
    """Keep the compiled wheel for `tests/run`, which runs further tests on it."""
    IMAGE_WHEEL.parent.mkdir(exist_ok=True)
    (wheel,) = wheels.glob("sse_broker-*.whl")
    IMAGE_WHEEL.mkdir(parents=True, exist_ok=True)
    shutil.copy(wheel, IMAGE_WHEEL)


class Container:
    """The image's command, on a free port, with a read-only folder."""

    def __init__(self, image: Stage, *flags: str, **env: str) -> None:
        self.port = free_port()
        self._env = {**image.environment(), "BROKER_PORT": str(self.port), "TMPDIR": "/nonexistent", **env}
        self._image = image
        self._process = self._started([*image.command, *flags])

    def _started(self, command: list[str]) -> ChildProcess:
        user, group = map(int, self._image.user.split(":"))
        as_user = {"user": user, "group": group, "extra_groups": []} if os.getuid() == 0 else {}
        program = str(self._image.programs / command[0])
        return ChildProcess([program, *command[1:]], cwd=self._image.folder, env=self._env, **as_user)

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._process.output

    def is_healthy(self) -> bool:
        """Whether the HEALTHCHECK succeeds."""
        with self._started(self._image.health) as check:
            return check.wait() == 0

    def stop(self) -> int:
        """SIGTERM to the one process that Docker knows; returns the exit status."""
        return self._process.terminate()

    def wait(self) -> int:
        """Returns the exit status."""
        return self._process.wait()

    def end(self) -> None:
        self._process.kill()


@contextmanager
def running(image: Stage, *flags: str, **env: str) -> Iterator[Container]:
    container = Container(image, *flags, BROKER_ANONYMOUS="publish,subscribe", **env)
    try:
        wait_for(lambda: "listening" in container.output, "the start line")
        yield container
    finally:
        container.end()


@pytest.mark.slow
def test_image_serves_on_all_addresses_as_a_user_that_can_write_nothing(image: Stage) -> None:
    assert image.user not in ("", "root", "0", "0:0")
    with running(image) as container:
        wait_for(
            lambda: f"listening on http://0.0.0.0:{container.port}" in container.output,
            "the line in the output",
        )
        assert exchange(container.port, request("POST", "/topics/a", body=b"x")).status == 201
        assert (
            exchange(container.port, request("GET", "/", "Accept: text/html", "Connection: close")).status
            == 200
        )


@pytest.mark.slow
def test_image_has_the_compiled_core(image: Stage) -> None:
    """Only in CI are the tests' steps those of the Dockerfile in this."""
    command = [str(image.programs / "python"), "-c", "import broker.sse; print(broker.sse.__file__)"]
    done = subprocess.run(command, cwd=image.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(".so" if os.environ.get("CI") == "true" else ".py")


@pytest.mark.slow
def test_image_does_not_start_open_by_mistake(image: Stage) -> None:
    container = Container(image)
    assert container.wait() == 2
    wait_for(lambda: "--anonymous publish,subscribe" in container.output, "the line in the output")
    container.end()


@pytest.mark.slow
def test_image_is_healthy_while_it_serves_and_its_signal_drains(image: Stage) -> None:
    with running(image) as container:
        assert container.is_healthy()
        assert container.stop() == 0
        wait_for(lambda: "draining" in container.output, "the line in the output")
        assert not container.is_healthy()


@pytest.mark.parametrize("by", ["variables", "flags"])
@pytest.mark.slow
def test_image_is_healthy_with_tls(image: Stage, by: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        issued = trustme.CA().issue_cert("events.example")
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o644)
        flags = (f"--tls-cert={cert}", f"--tls-key={key}") if by == "flags" else ()
        env = {} if flags else {"BROKER_TLS_CERT": str(cert), "BROKER_TLS_KEY": str(key)}
        with running(image, *flags, **env) as container:
            wait_for(lambda: "listening on https:" in container.output, "the line in the output")
            assert container.is_healthy()
            container.stop()
            assert not container.is_healthy()


@pytest.mark.slow
def test_image_serves_beside_a_kubernetes_service_of_its_name(image: Stage) -> None:
    with running(image, f"--port={free_port()}", BROKER_PORT="tcp://10.96.0.17:8080") as container:
        wait_for(lambda: "listening on http://0.0.0.0:" in container.output, "the line in the output")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("127.0.0.1", 8080)),
        ({"BROKER_HOST": "0.0.0.0", "BROKER_PORT": "9000"}, ("127.0.0.1", 9000)),
        ({"BROKER_HOST": "::", "BROKER_PORT": "tcp://10.96.0.17:8080"}, ("::1", 8080)),
        ({"BROKER_HOST": "10.0.0.7", "BROKER_PORT": ""}, ("10.0.0.7", 8080)),
        ({"BROKER_HOST": "*"}, ("127.0.0.1", 8080)),
        ({"BROKER_HOST": "10.0.0.7, ::1"}, ("10.0.0.7", 8080)),
    ],
)
def test_health_check_asks_where_the_broker_listens(
    variables: dict[str, str], expected: tuple[str, int]
) -> None:
    assert health.address(variables) == expected


@pytest.mark.parametrize(
    ("settings", "is_ready"), [({}, True), ({"redis_url": "redis://127.0.0.1:1"}, False)]
)
def test_health_check_can_ask_for_readiness(settings: dict[str, str], is_ready: bool) -> None:
    """Without its store a broker is healthy, since a restart wouldn't help, but not ready."""
    with BrokerProcess(**settings, own_timeouts=True) as broker:
        for arguments, succeeds in (([], True), (["ready"], is_ready)):
            command = [sys.executable, "-m", "broker.process.health", *arguments]
            environment = {**os.environ, "BROKER_PORT": str(broker.port)}
            done = subprocess.run(command, env=environment, timeout=WAIT_SECONDS, check=False)
            assert (done.returncode == 0) == succeeds, arguments


@pytest.mark.slow
def test_image_has_the_programs_that_it_names(image: Stage) -> None:
    for command in (image.command, image.health):
        assert (image.programs / command[0]).exists()


def test_dockerfile_is_read() -> None:
    text = '# no\nFROM a AS b\nRUN --mount=type=bind,from=b \\\n    pip install\n\nCMD ["x"]\n'
    assert list(instructions(text)) == [
        Instruction("FROM", {}, "a AS b"),
        Instruction("RUN", {"mount": "type=bind,from=b"}, "pip install"),
        Instruction("CMD", {}, '["x"]'),
    ]


# The Compose file


@pytest.fixture
def compose() -> Any:
    return YAML(typ="safe").load(COMPOSE.read_text())


def test_compose_file_is_valid_by_the_specifications_schema() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def brokers(compose: Any) -> dict[str, Any]:
    return {name: service for name, service in compose["services"].items() if name.startswith("broker-")}


def test_compose_file_gives_brokers_settings_that_there_are(compose: Any) -> None:
    for broker in brokers(compose).values():
        given = {name.removeprefix("BROKER_").lower(): text for name, text in broker["environment"].items()}
        assert set(given) <= set(Settings.model_fields)
        assert given["jwt_secrets"].startswith("${BROKER_JWT_SECRETS:?"), "it is asked for, and in no file"
        given |= {"jwt_secrets": '["a secret that is long enough for it"]', "host": "0.0.0.0"}
        settings = Settings.model_validate(given)
        assert settings.redis_url == "redis://valkey:6379/0"
        assert settings.drain_notice_seconds + settings.drain_seconds < seconds(broker["stop_grace_period"])


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    assert found
    return int(found[1])


def test_compose_file_waits_for_readiness(compose: Any) -> None:
    """A new version that can't use its store must not replace the next broker."""
    dockerfile = instructions((ROOT / "Dockerfile").read_text())
    health_check = next(one.value for one in dockerfile if one.word == "HEALTHCHECK")
    for broker in brokers(compose).values():
        command = broker["healthcheck"]["test"]
        assert command[0] == "CMD"
        assert command[1:] == [*json.loads(health_check.removeprefix("CMD ")), "ready"]
    assert "|| break; done" in COMPOSE.read_text(), "a failure stops the loop of the file's head"


def test_brokers_of_the_compose_file_trust_nginx(compose: Any) -> None:
    network = compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]
    for broker in brokers(compose).values():
        assert broker["environment"]["BROKER_TRUSTED_PROXIES"] == network


def test_compose_file_starts_the_brokers_that_nginx_asks(compose: Any) -> None:
    assert set(brokers(compose)) == set(NAMES)
    addresses = {broker["networks"]["inside"]["ipv4_address"] for broker in brokers(compose).values()}
    assert len(addresses) == len(NAMES)


def test_compose_file_mounts_files_that_exist_or_that_the_guide_makes(compose: Any) -> None:
    guide = (ROOT / "deploy" / "guides" / "operating.md").read_text()
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    sources = {volume.split(":")[0] for volume in volumes} - set(compose["volumes"])
    assert {"./nginx.conf", "./prometheus.yml", "./grafana/dashboard.json"} <= sources
    for source in sources:
        assert (ROOT / "deploy" / source).exists() or source.removeprefix("./") in guide


def test_prometheus_of_the_compose_file_scrapes_each_broker(compose: Any) -> None:
    prometheus = YAML(typ="safe").load(ROOT / "deploy" / "prometheus.yml")
    (job,) = prometheus["scrape_configs"]
    (targets,) = job["static_configs"]
    port = brokers(compose)["broker-1"]["environment"]["BROKER_METRICS_PORT"]
    assert targets["targets"] == [f"{name}:{port}" for name in brokers(compose)]
    mounted = {volume.split(":")[1] for volume in compose["services"]["prometheus"]["volumes"]}
    assert set(prometheus["rule_files"]) <= mounted


def test_store_of_the_compose_file_keeps_what_it_took(compose: Any) -> None:
    command = " ".join(compose["services"]["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
