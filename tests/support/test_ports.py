"""Ports that no other program gets."""

from __future__ import annotations

import socket

from tests.support.http import HOST
from tests.support.ports import KERNELS_RANGE, free_port


def test_the_kernel_gives_them_to_no_program() -> None:
    first, _ = map(int, KERNELS_RANGE.read_text().split())
    assert all(free_port() < first for _ in range(50))


def test_each_is_given_once_and_those_in_use_are_left_out() -> None:
    assert len({free_port() for _ in range(50)}) == 50
    taken = free_port()
    with socket.create_server((HOST, taken)):
        assert taken not in {free_port() for _ in range(3000)}, "which is more than once around"


def test_several_are_consecutive() -> None:
    first = free_port(3)
    ports = range(first, first + 3)
    servers = [socket.create_server((HOST, port)) for port in ports]
    assert free_port() not in ports
    for server in servers:
        server.close()
