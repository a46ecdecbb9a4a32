"""The servers that are compared, and how each is started: this broker, the floor, nchan, sse-starlette, Mercure, Centrifugo.

Rules: all files of a server are in a directory of the run or in the repository's .cache; no service of the system is used. Each
server listens on a free port of 127.0.0.1, and the process that started it ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jwt

from broker.bench.plan import PublishForm

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "peers"
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
STARLETTE_NEEDS = (
    "sse-starlette==3.7.0",
    "starlette==1.10.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
)
START_SECONDS = 30.0
END_SECONDS = 15.0
ALL_CAN = frozenset(("topics", "ndjson", "replay"))


class MissingError(Exception):
    """A server cannot run on this machine; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running server."""

    pid: int
    url: str
    publish_url: str
    headers: tuple[str, ...] = ()
    form: PublishForm = ("text/plain", "", "")


class Peer(Protocol):
    """One kind of server. `can` names the loads that it supports besides publishing and subscribing."""

    name: str
    can: frozenset[str]
    subscribe_path: str
    publish_path: str

    @property
    def headers(self) -> tuple[str, ...]:
        """Header lines of all requests."""

    @property
    def form(self) -> PublishForm: ...

    def prepare(self) -> None:
        """Build or install the server, once. Raises MissingError."""

    def command(self, port: int, directory: Path) -> list[str]:
        """The command that serves on `port`; its files go into `directory`."""


class Plain:
    """Takes the body of a POST for the event's data, as `broker bench` sends it."""

    headers: tuple[str, ...] = ()
    form: PublishForm = ("text/plain", "", "")


class Broker(Plain):
    """This broker, with its default settings unless there are `arguments` of `serve`, or the one in the folder `checkout`.

    `{directory}` in them stands for the directory of the run: `Broker("broker, 2 workers", "--workers=2", "--data={directory}/data")`.
    It runs on the Python that runs this, or on the program `python`, which has the broker's dependencies.
    """

    can = ALL_CAN
    subscribe_path = publish_path = "/topics/bench.{n}"

    def __init__(
        self,
        name: str = "broker",
        *arguments: str,
        checkout: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.checkout = checkout or HERE.parents[2]
        self.python = python

    def prepare(self) -> None:
        """The broker is part of this repository."""

    def command(self, port: int, directory: Path) -> list[str]:
        return [
            self.python,
            "-c",
            f"import sys; sys.path.insert(0, {str(self.checkout)!r}); import broker.cli; sys.exit(broker.cli.main())",
            "serve",
            "--port",
            str(port),
            *(argument.replace("{directory}", str(directory)) for argument in self.arguments),
        ]


class Floor(Plain):
    """The minimal server in floor.c, with one topic."""

    name = "floor"
    can = frozenset(("replay",))
    subscribe_path = publish_path = "/"

    def prepare(self) -> None:
        if not shutil.which("cc"):
            raise MissingError("floor: needs a C compiler (apt-get install gcc libc6-dev)")
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(CACHE / "floor"), str(HERE / "floor.c")], check=True)

    def command(self, port: int, directory: Path) -> list[str]:
        return [str(CACHE / "floor"), str(port)]


class Nchan(Plain):
    """Debian's nginx with its nchan module: one worker, store in memory."""

    name = "nchan"
    can = frozenset(("topics", "replay"))
    subscribe_path = "/sub/{n}"
    publish_path = "/pub/{n}"

    def prepare(self) -> None:
        if not NCHAN_MODULE.exists() or not self.program():
            raise MissingError("nchan: needs nginx and its module (apt-get install nginx libnginx-mod-nchan)")

    def program(self) -> str | None:
        return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def command(self, port: int, directory: Path) -> list[str]:
        user = "user root;" if os.geteuid() == 0 else ""
        text = (HERE / "nginx.conf").read_text(encoding="utf-8")
        for name, value in (
            ("MODULE", str(NCHAN_MODULE)),
            ("USER", user),
            ("DIRECTORY", str(directory)),
            ("PORT", str(port)),
        ):
            text = text.replace(f"@{name}@", value)
        (directory / "nginx.conf").write_text(text, encoding="utf-8")
        return [
            self.program() or "nginx",
            "-p",
            str(directory),
            "-c",
            str(directory / "nginx.conf"),
            "-e",
            str(directory / "error.log"),
        ]


class Starlette(Plain):
    """sse-starlette under uvicorn and uvloop, one worker: the app in starlette_app.py."""

    name = "sse-starlette"
    can = frozenset(("topics", "replay"))
    subscribe_path = publish_path = "/topics/{n}"
    python = CACHE / "sse-starlette" / "bin" / "python"

    def prepare(self) -> None:
        """Make an environment, once for each set of versions."""
        stamp = CACHE / "sse-starlette" / "installed.txt"
        wanted = "\n".join(STARLETTE_NEEDS)
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "sse-starlette")], check=True)
        subprocess.run([str(self.python), "-m", "pip", "install", "--quiet", *STARLETTE_NEEDS], check=True)
        stamp.write_text(wanted, encoding="utf-8")

    def command(self, port: int, directory: Path) -> list[str]:
        options = [
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--backlog",
            "4096",
            "--no-access-log",
            "--log-level",
            "warning",
        ]
        return [
            str(self.python),
            "-m",
            "uvicorn",
            "starlette_app:app",
            "--app-dir",
            str(HERE),
            "--port",
            str(port),
            *options,
        ]


class OnPath:
    """A server with a program on the PATH; without that program the peer is left out."""

    name: str
    can = frozenset(("topics",))

    def prepare(self) -> None:
        if not shutil.which(self.name):
            raise MissingError(f"{self.name}: left out, for its program isn't on the PATH")

    def program(self) -> str:
        return shutil.which(self.name) or self.name


class Mercure(OnPath):
    """Mercure with its transport in memory, and no history: readers need no token, publishers do."""

    name = "mercure"
    subscribe_path = "/.well-known/mercure?topic=bench.{n}"
    publish_path = "/.well-known/mercure"
    key = "a key for measurements; it protects nothing"
    form = ("application/x-www-form-urlencoded", "topic=bench.{n}&data=", "")

    @property
    def headers(self) -> tuple[str, ...]:
        token = jwt.encode({"mercure": {"publish": ["*"]}}, self.key)
        return (f"Authorization: Bearer {token}",)

    def command(self, port: int, directory: Path) -> list[str]:
        (directory / "Caddyfile").write_text(
            "{\n admin off\n auto_https off\n persist_config off\n}\n"
            f"http://127.0.0.1:{port} {{\n mercure {{\n  transport local\n  anonymous\n"
            f'  publisher_jwt "{self.key}"\n  subscriber_jwt "{self.key}"\n }}\n}}\n',
            encoding="utf-8",
        )
        return [self.program(), "run", "--config", str(directory / "Caddyfile")]


class Centrifugo(OnPath):
    """Centrifugo with its engine in memory; its subscribers use `uni_sse`."""

    name = "centrifugo"
    subscribe_path = "/connection/uni_sse?cf_connect=%7B%22subs%22:%7B%22bench.{n}%22:%7B%7D%7D%7D"
    publish_path = "/api/publish"
    headers = ("X-API-Key: bench",)
    form = ("application/json", '{"channel":"bench.{n}","data":"', '"}')

    def command(self, port: int, directory: Path) -> list[str]:
        settings = {
            "http_server": {"address": "127.0.0.1", "port": str(port)},
            "http_api": {"key": "bench"},
            "uni_sse": {"enabled": True},
            "client": {"insecure": True, "allowed_origins": ["*"]},
            "log": {"level": "error"},
        }
        (directory / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        return [self.program(), "--config", str(directory / "config.json")]


PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Broker(), Floor(), Nchan(), Starlette(), Mercure(), Centrifugo())
}


@contextlib.contextmanager
def running(
    peer: Peer, cpu: int, load_cpu: int, directory: Path, *, on_both: bool = False
) -> Iterator[Running]:
    """Run the server on `cpu` during the block, and this process on `load_cpu`; with `on_both`, each on both of them.

    Raises MissingError if it does not start.
    """
    port = free_port()
    log = directory / "server.log"
    server_cpus, load_cpus = ({cpu, load_cpu},) * 2 if on_both else ({cpu}, {load_cpu})
    with log.open("wb") as output:
        os.sched_setaffinity(0, server_cpus)
        try:
            process = subprocess.Popen(
                peer.command(port, directory), stdout=output, stderr=output, cwd=directory, env=environment()
            )
        finally:
            os.sched_setaffinity(0, load_cpus)
    try:
        wait_until_up(peer, process, port, log)
        base = f"http://127.0.0.1:{port}"
        yield Running(
            process.pid, base + peer.subscribe_path, base + peer.publish_path, peer.headers, peer.form
        )
    finally:
        end(process)


def environment() -> dict[str, str]:
    """This process's environment without the broker's settings, and with the repository on the Python path."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    return mine | {"PYTHONPATH": str(HERE.parents[2])}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_up(peer: Peer, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when the server accepts connections. Raises MissingError."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    output = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise MissingError(f"{peer.name}: did not start: {output[-1] if output else 'without output'}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process; kill it if it does not end."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
