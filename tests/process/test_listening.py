"""Where a broker listens, as clients see it: addresses, unix sockets, and sockets of a service manager."""

from __future__ import annotations

import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession, UnixConnector

from broker.process import health
from tests.process.streams import FAST_RECONNECTS
from tests.support.broker_process import BrokerProcess, refused_start, run_serve
from tests.support.http import Connection, exchange, request
from tests.support.ports import free_port
from tests.support.process_tree import workers
from tests.support.waiting import WAIT_SECONDS, wait_for

HEALTH = request("GET", "/healthz")
ALONE = {"port": "none", "workers": 1}
ACTIVATED = """
import os, socket, sys
sockets = []
for where in sys.argv[1].split():
    if where.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(where)
    else:
        sock = socket.create_server((where, 0))
    sock.listen()
    sockets.append(sock.detach())
for number, descriptor in enumerate(sockets):
    os.dup2(descriptor, 3 + number)
    os.set_inheritable(3 + number, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""A service manager: binds the sockets in its first argument, then becomes the command in the others."""


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1,::1", "*"] if has_ipv6() else ["*"])
def test_it_listens_on_ipv4_and_ipv6(host: str) -> None:
    """A machine without IPv6 listens on IPv4."""
    addresses = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)
    with BrokerProcess(host=host, anonymous="publish,subscribe") as broker:
        assert {exchange((address, broker.port), HEALTH).status for address in addresses} == {200}
        (line,) = (line for line in broker.output.splitlines() if "listening on" in line)
        assert line.count("http://") == len(addresses)


def test_the_flag_host_may_be_given_several_times() -> None:
    other = "127.0.0.2"
    with BrokerProcess() as broker:
        line = refused_start("--host=127.0.0.3", "--host", "127.0.0.1", f"--port={broker.port}")
        assert f"can't listen on 127.0.0.1 port {broker.port}" in line
    with BrokerProcess(host=f"127.0.0.1,{other}") as broker:
        assert exchange((other, broker.port), HEALTH).status == 200


def test_all_hosts_must_be_loopback_to_be_open() -> None:
    done = run_serve("--port=0", "--host=127.0.0.1,0.0.0.0")
    assert done.returncode == 2
    assert "other machines can reach 127.0.0.1, 0.0.0.0" in done.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_a_unix_socket_beside_the_port(store: str, tmp_path: Path, count: int) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(unix_socket=path, workers=count, redis_url=store, **FAST_RECONNECTS) as broker:
        assert f", unix:{path}, store" in broker.output
        assert {exchange(where, HEALTH).status for where in (broker.port, path)} == {200}
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        if count > 1:
            former = set(workers(broker))
            broker.send_signal(signal.SIGHUP)
            wait_for(lambda: "rolling restart complete" in broker.output, "the rolling restart")
            assert not former & set(workers(broker))
            assert exchange(path, HEALTH).status == 200, "the socket outlives its first workers"
        assert broker.terminate() == 0
    assert not path.exists()


async def test_a_unix_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(unix_socket=path, unix_socket_mode="600", **ALONE) as broker:
        assert broker.output.startswith(f"broker: listening on unix:{path}, store: memory\n")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with ClientSession(connector=UnixConnector(str(path))) as session:
            stream = await session.get(
                "http://localhost/topics/news", headers={"Accept": "text/event-stream"}
            )
            published = await session.post("http://localhost/topics/news", data="by a unix socket")
            assert published.status == 201
            async for line in stream.content:
                if line == b"data: by a unix socket\n":
                    break
            stream.close()
        variables = {"BROKER_UNIX_SOCKET": str(path), "BROKER_PORT": "none"}
        wait_for(lambda: health.is_healthy(variables), "a health check")
        assert broker.terminate() == 0
    assert not health.is_healthy(variables)


def test_workers_on_a_unix_socket_alone(store: str, tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(unix_socket=path, port="none", workers=2, redis_url=store) as broker:
        assert f"listening on unix:{path}, store" in broker.output
        answers = {exchange(path, HEALTH).status for _ in range(10)}
        assert answers == {200}
        assert broker.terminate() == 0
    assert not path.exists()


def test_a_unix_socket_beside_https_is_plain_http(tmp_path: Path) -> None:
    path, cert, key = tmp_path / "broker.sock", tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    with BrokerProcess(unix_socket=path, tls_cert=cert, tls_key=key) as broker:
        assert broker.url.startswith("https://")
        own = request("POST", "/topics/a", "Origin: http://127.0.0.1", body=b"x")
        assert exchange(path, own).status == 201


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(unix_socket=path, **ALONE) as broker:
        broker.kill()
        assert path.exists()
        broker.start()
        assert exchange(path, HEALTH).status == 200


def test_a_unix_socket_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(unix_socket=path, **ALONE) as broker:
        line = refused_start("--port=none", f"--unix-socket={path}")
        assert line == f"broker: unix_socket: another process listens on {path}"
        assert exchange(path, HEALTH).status == 200
        assert broker.terminate() == 0


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert "exists and is not a socket" in refused_start("--port=none", f"--unix-socket={path}")
    assert path.read_text() == "data"


def test_a_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(unix_socket=path, **ALONE) as broker:
        path.unlink()
        with BrokerProcess(unix_socket=path, **ALONE):
            assert broker.terminate() == 0
            assert exchange(path, HEALTH).status == 200


def test_a_path_too_long_is_refused(tmp_path: Path) -> None:
    assert "107 bytes" in refused_start("--port=none", f"--unix-socket={tmp_path}/{'x' * 100}")


def test_no_port_needs_a_unix_socket() -> None:
    done = run_serve("--port=none")
    assert (done.returncode, "port: none needs unix_socket" in done.stderr) == (2, True)


def test_what_is_counted_by_address_is_not_counted_for_the_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    with BrokerProcess(
        unix_socket=path, max_publishes_per_second=0.01, max_connections_per_address=1
    ) as broker:
        publish = request("POST", "/topics/a", body=b"x")
        assert [exchange(path, publish).status for _ in range(9)] == [201] * 9
        assert 429 in [exchange(broker.port, publish).status for _ in range(9)]
        streams = [Connection(path) for _ in range(3)]
        for stream in streams:
            stream.send(request("GET", "/topics/a", "Accept: text/event-stream"))
            assert b"200 OK" in stream.until(b"broker.open")
        for stream in streams:
            stream.socket.close()


def launcher(*where: object) -> tuple[str, ...]:
    return sys.executable, "-c", ACTIVATED, " ".join(map(str, where))


@pytest.mark.parametrize("count", [1, 2])
def test_sockets_of_a_service_manager(store: str, tmp_path: Path, count: int) -> None:
    path = tmp_path / "activated.sock"
    with BrokerProcess(
        launcher=launcher("127.0.0.1", path), workers=count, redis_url=store, **FAST_RECONNECTS
    ) as broker:
        assert re.search(rf"listening on http://127\.0\.0\.1:\d+, unix:{path}, store", broker.output)
        assert {exchange(where, HEALTH).status for where in (broker.port, path)} == {200}
        if count > 1:
            broker.send_signal(signal.SIGHUP)
            wait_for(lambda: "rolling restart complete" in broker.output, "the rolling restart")
            assert {exchange(where, HEALTH).status for where in (broker.port, path)} == {200}
        assert broker.terminate() == 0
    assert path.exists(), "it is the manager's"


def started_by_a_manager(*command: str) -> str:
    """What `broker serve` prints that can't start."""
    serve = [sys.executable, "-m", "broker", "serve", "--host=127.0.0.1"]
    done = subprocess.run(
        [*command, *serve], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode
    return done.stderr


def test_access_control_looks_at_the_sockets_of_a_service_manager() -> None:
    assert "other machines can reach 0.0.0.0" in started_by_a_manager(*launcher("0.0.0.0"))


def test_a_descriptor_that_is_no_listening_socket_is_refused() -> None:
    code = "import os, sys; os.dup2(1, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[1], sys.argv[1:])"
    text = started_by_a_manager(sys.executable, "-c", code)
    assert text == "broker: LISTEN_FDS: descriptor 3 is not a socket: Socket operation on non-socket\n"


def test_variables_of_another_process_are_ignored() -> None:
    with BrokerProcess(environment={"LISTEN_PID": "1", "LISTEN_FDS": "1"}) as broker:
        assert exchange(broker.port, HEALTH).status == 200


def test_metrics_have_an_address_of_their_own() -> None:
    port = free_port()
    with BrokerProcess(metrics_port=port, metrics_host="127.0.0.2,127.0.0.3") as broker:
        for host in ("127.0.0.2", "127.0.0.3"):
            assert exchange((host, port), request("GET", "/metrics")).status == 200
        with pytest.raises(ConnectionRefusedError):
            exchange(("127.0.0.1", port), HEALTH)
        assert broker.terminate() == 0


def test_an_idle_connection_is_kept_for_keepalive_seconds() -> None:
    with BrokerProcess(keepalive_seconds=0.1) as broker, Connection(broker.port) as connection:
        connection.send(HEALTH)
        assert connection.answer().status == 200
        assert connection.rest() == b""


@pytest.mark.parametrize(
    ("settings", "statuses"), [({}, {9_000: 200, 17_000: 400}), ({"max_head_bytes": 65_536}, {60_000: 200})]
)
def test_the_size_of_a_head_is_a_setting(settings: dict[str, int], statuses: dict[int, int]) -> None:
    with BrokerProcess(**settings) as broker:
        for size, status in statuses.items():
            head = request("GET", "/topics/a", f"Cookie: c={'x' * size}", "Accept: application/json")
            assert exchange(broker.port, head).status == status
