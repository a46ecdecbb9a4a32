"""The sockets that workers share."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from broker.process.listeners import Listeners
from broker.process.setup import StartError
from broker.settings import Settings


def ports(listeners: Listeners, workers: int) -> set[int]:
    return {sock.getsockname()[1] for worker in range(workers) for sock in listeners.sockets(worker)}


def test_port_0_is_the_same_free_port_for_all_workers() -> None:
    with closing(Listeners(Settings(host="127.0.0.1", port=0, anonymous="publish"), 3)) as listeners:
        (port,) = ports(listeners, 3)
        assert port


def test_every_address_of_a_name_has_a_socket_of_the_same_port() -> None:
    addresses = {entry[4][0] for entry in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with closing(Listeners(Settings(host="localhost", port=0, anonymous="publish"), 2)) as listeners:
        assert len(ports(listeners, 2)) == 1
        for worker in range(2):
            assert {sock.getsockname()[0] for sock in listeners.sockets(worker)} == addresses


def test_a_replaced_socket_has_the_same_port_and_an_empty_queue() -> None:
    with closing(Listeners(Settings(host="127.0.0.1", port=0, anonymous="publish"), 1)) as listeners:
        (former,) = listeners.sockets(0)
        former.listen()
        where = former.getsockname()
        with socket.create_connection(where, timeout=5) as waiting:
            listeners.replace(0)
            (sock,) = listeners.sockets(0)
            assert sock.getsockname() == where
            with pytest.raises(ConnectionResetError):
                waiting.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where, timeout=5)


def test_a_port_that_another_broker_shares_is_in_use() -> None:
    with closing(Listeners(Settings(host="127.0.0.1", port=0, anonymous="publish"), 1)) as listeners:
        (sock,) = listeners.sockets(0)
        sock.listen()
        with pytest.raises(StartError, match="can't listen"):
            Listeners(Settings(host="127.0.0.1", port=sock.getsockname()[1], anonymous="publish"), 2)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartError, match=r"can't listen on 192\.0\.2\.1"):
        Listeners(Settings(host="192.0.2.1", port=0, anonymous="publish"), 1)
