"""nginx, HAProxy, Caddy, Envoy and Traefik, each started with the very file of `deploy/` that users get.

Only addresses, ports, paths and limits of this machine are put in, by plain replacement of text that the file must have:
so a file that has changed beyond that fails here. Each listens twice on loopback, with TLS as users do, and without, for
clients that look at bytes. The names `broker-1:8080` to `broker-3:8080` are dealt to the brokers there are: one broker
stands behind all three names.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self
from urllib.request import urlopen

import trustme
from ruamel.yaml import YAML

from tests.support.child_process import ChildProcess
from tests.support.http import HOST, exchange, request
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = ("broker-1", "broker-2", "broker-3")
IDLE = "75s"
"""How long the files let a hop be silent; shorter in tests that can't wait as long."""
START_SECONDS = WAIT_SECONDS


def substituted(text: str, replacements: Mapping[str, str]) -> str:
    """`text` with each key replaced by its value wherever it stands; fails where it doesn't."""
    for old, new in replacements.items():
        assert old in text, f"{old!r} isn't in the file any more"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class Certificate:
    """PEM files: the chain, its key, both in one, and the authority."""

    chain: Path
    key: Path
    both: Path
    authority: Path

    @classmethod
    def made(cls, folder: Path) -> Certificate:
        """One for `localhost` and 127.0.0.1, signed by an unknown authority."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", HOST)
        made = cls(folder / "chain.pem", folder / "key.pem", folder / "both.pem", folder / "authority.pem")
        authority.cert_pem.write_to_path(made.authority)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(made.chain, append=True)
        issued.private_key_pem.write_to_path(made.key)
        issued.private_key_and_cert_chain_pem.write_to_path(made.both)
        return made


class ProxyProcess(ABC):
    """One proxy in front of `brokers`, which are addresses; a context manager.

    Args:
        folder: an empty one, for all that it writes.
        idle_seconds: instead of the file's 75 s.
        changes: what a user changes in the file.
        below: the path that the brokers' URLs begin with.

    Attributes:
        port: where it speaks plain HTTP.
        tls_port: where it speaks HTTPS, HTTP/2 too.
        authority: the PEM file of the authority that signed its certificate.
    """

    program: ClassVar[str]
    file: ClassVar[str]
    address: ClassVar[str] = "{}:{}"
    """How the file writes a broker's."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    answers_early: ClassVar[bool] = True
    """Whether a publisher hears of an answer while it still sends its body."""
    asks_past_refusal: ClassVar[bool] = True
    """Whether a stream that a broker refuses is asked of another."""
    comes_back: ClassVar[bool] = True
    """Whether it answers an EventSource with `retry:` while no broker is there."""
    cuts_silent_streams: ClassVar[bool] = True
    """Whether it has a time-out for silence."""
    resends_bodies: ClassVar[bool] = True
    """Whether a request with a body that met a dead broker is tried on another, if that can't publish twice."""

    def __init__(
        self,
        brokers: Sequence[str],
        folder: Path,
        *,
        idle_seconds: int | None = None,
        changes: Mapping[str, str] = MappingProxyType({}),
        below: str = "",
    ) -> None:
        self._below = below
        self.port = free_port()
        self.tls_port = free_port()
        self._folder = folder
        addresses = {}
        for index, name in enumerate(NAMES):
            host, port = brokers[index % len(brokers)].removeprefix("http://").split(":")
            addresses[self.address.format(name, 8080)] = self.address.format(host, port)
        idle = {IDLE: f"{idle_seconds or 75}s"} if self.cuts_silent_streams else {}
        text = substituted((DEPLOY / self.file).read_text(), {**addresses, **idle, **changes})
        self._config = folder / Path(self.file).name
        certificate = Certificate.made(folder)
        self.authority = certificate.authority
        self._config.write_text(self._completed(substituted(text, self._replacements(certificate))))

    @abstractmethod
    def _replacements(self, certificate: Certificate) -> dict[str, str]:
        """What else differs on this machine."""

    def _completed(self, text: str) -> str:
        """What replacements can't do."""
        return text

    @abstractmethod
    def _arguments(self) -> list[str]:
        """How to run it in the foreground."""

    @classmethod
    def path(cls) -> str | None:
        """Where the program is, if it is; Debian keeps some where only root looks."""
        return shutil.which(cls.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"

    def __enter__(self) -> Self:
        path = self.path()
        assert path is not None
        self._process = ChildProcess(
            [path, *self._arguments()],
            cwd=self._folder,
            env={**os.environ, "HOME": str(self._folder), "XDG_DATA_HOME": str(self._folder)},
        )
        self._process.wait_until_up(self._answers, START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.send_signal(self.stop_signal)
        self._process.wait()

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._process.output

    def _answers(self) -> bool:
        """Whether a broker answers through it."""
        try:
            return exchange(self.port, request("GET", f"{self._below}/healthz")).status == 200
        except ConnectionError:
            return False


class Nginx(ProxyProcess):
    program = "nginx"
    file = "nginx.conf"

    def _replacements(self, certificate: Certificate) -> dict[str, str]:
        temporary = " ".join(
            f"{kind}_temp_path {self._folder};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return {
            "listen 443 ssl http2;": f"listen {HOST}:{self.tls_port} ssl http2; listen {HOST}:{self.port};",
            "/etc/ssl/events.example.com.pem": str(certificate.chain),
            "/etc/ssl/events.example.com.key": str(certificate.key),
            "error_log /var/log/nginx/error.log": "error_log stderr",
            "/var/log/nginx/access.log": str(self._folder / "access.log"),
            "http {": f"http {{ {temporary}",
        }

    def _arguments(self) -> list[str]:
        user = "user root;" if os.getuid() == 0 else ""  # a test's folder is closed to others
        globals_ = f"daemon off; {user} pid {self._folder}/pid;"
        return ["-e", "stderr", "-p", str(self._folder), "-c", str(self._config), "-g", globals_]


class HAProxy(ProxyProcess):
    program = "haproxy"
    file = "haproxy.cfg"

    def _replacements(self, certificate: Certificate) -> dict[str, str]:
        tls = f"{HOST}:{self.tls_port} ssl crt {certificate.both} alpn h2,http/1.1"
        return {
            "bind :443 ssl crt /etc/ssl/events.example.com.pem alpn h2,http/1.1": f"bind {tls}\n bind {HOST}:{self.port}",
            "maxconn 50000": "maxconn 8000",  # it won't start with more than the machine lets it have
        }

    def _arguments(self) -> list[str]:
        return ["-db", "-f", str(self._config)]


class Caddy(ProxyProcess):
    program = "caddy"
    file = "Caddyfile"
    stop_signal = signal.SIGKILL  # SIGTERM waits for the streams
    answers_early = False  # Go's server, over HTTP/1.1, first reads the rest of the body
    asks_past_refusal = False  # it retries failed requests, not answered ones
    resends_bodies = False  # not in 2.6

    def _replacements(self, certificate: Certificate) -> dict[str, str]:
        plain = f"http://:{self.port} {{\n bind {HOST}\n import events\n}}\n"
        tls = f"https://:{self.tls_port} {{\n bind {HOST}\n tls {certificate.chain} {certificate.key}"
        return {
            "grace_period 10s": "grace_period 10s\n admin off\n auto_https disable_redirects",
            "events.example.com {": plain + tls,
        }

    def _arguments(self) -> list[str]:
        return ["run", "--config", str(self._config), "--adapter", "caddyfile"]


class Envoy(ProxyProcess):
    program = "envoy"
    file = "envoy.yaml"
    address = "{{address: {}, port_value: {}}}"

    def _replacements(self, certificate: Certificate) -> dict[str, str]:
        return {
            '{address: "::", port_value: 443, ipv4_compat: true}': f"{{address: {HOST}, port_value: {self.tls_port}}}",
            "/etc/ssl/events.example.com.pem": str(certificate.chain),
            "/etc/ssl/events.example.com.key": str(certificate.key),
        }

    def _completed(self, text: str) -> str:
        config = YAML(typ="safe").load(text)
        listeners = config["static_resources"]["listeners"]
        plain = copy.deepcopy(listeners[0])
        plain["name"] = "plain"
        plain["address"]["socket_address"]["port_value"] = self.port
        del plain["filter_chains"][0]["transport_socket"]
        listeners.append(plain)
        self._admin_port = free_port()
        config["admin"] = {"address": {"socket_address": {"address": HOST, "port_value": self._admin_port}}}
        return json.dumps(config)

    def _answers(self) -> bool:
        """It begins with the first broker that is ready; the others follow within a second."""
        if not super()._answers():
            return False
        with urlopen(f"http://{HOST}:{self._admin_port}/clusters", timeout=WAIT_SECONDS) as answer:
            hosts = answer.read()
        return bool(hosts.count(b"health_flags::healthy") == len(NAMES))

    def _arguments(self) -> list[str]:
        return [
            "--disable-hot-restart",
            "--concurrency",
            "2",
            "--log-level",
            "warning",
            "-c",
            str(self._config),
        ]


class Traefik(ProxyProcess):
    program = "traefik"
    file = "traefik/dynamic.yml"
    stop_signal = signal.SIGKILL  # SIGTERM waits for the streams, and for a second without them
    answers_early = False  # Go's server, as Caddy's
    resends_bodies = False
    asks_past_refusal = False  # it retries failed requests, not answered ones
    comes_back = False
    cuts_silent_streams = False
    _SETTINGS = DEPLOY / "traefik" / "traefik.yml"

    def __init__(
        self,
        brokers: Sequence[str],
        folder: Path,
        *,
        changes: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        """As the others; what only the second file has is changed there."""
        settings = self._SETTINGS.read_text()
        in_settings = {old: new for old, new in changes.items() if old in settings}
        self._settings = substituted(settings, in_settings)
        others = {old: new for old, new in changes.items() if old not in in_settings}
        super().__init__(brokers, folder, changes=others, **options)

    def _replacements(self, certificate: Certificate) -> dict[str, str]:
        return {
            "/etc/ssl/events.example.com.pem": str(certificate.chain),
            "/etc/ssl/events.example.com.key": str(certificate.key),
        }

    def _completed(self, text: str) -> str:
        config = YAML(typ="safe").load(text)
        routers = config["http"]["routers"]
        for name in list(routers):
            plain = routers[name] | {"entryPoints": ["plain"]}
            del plain["tls"]
            routers[f"plain-{name}"] = plain
        settings = YAML(typ="safe").load(self._settings)
        points = settings["entryPoints"]
        points["plain"] = points["events"] | {"address": f"{HOST}:{self.port}"}
        points["events"]["address"] = f"{HOST}:{self.tls_port}"
        settings["providers"]["file"]["filename"] = str(self._config)
        (self._folder / "settings.json").write_text(json.dumps(settings))
        return json.dumps(config)

    def _arguments(self) -> list[str]:
        return [f"--configFile={self._folder / 'settings.json'}"]


PROXIES: dict[str, type[ProxyProcess]] = {
    kind.program: kind for kind in (Nginx, HAProxy, Caddy, Envoy, Traefik)
}
