"""The program that a worker runs: one instance, for as long as its supervisor lives.

Standard input brings the orders and then nothing, until it ends with the supervisor; so does the worker, at once: another
supervisor may already be starting, and the subscribers come back by their cursors. Standard output takes the report, and is
standard error from then on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import uvloop

from broker.process.instance import Listening, serve
from broker.process.setup import StartError, relax_collector, set_up
from broker.process.worker_protocol import Orders, Report

STDIN, STDOUT, STDERR = range(3)
ORPHANED = 1


def main() -> int:
    """Run the worker; its exit status."""
    line = sys.stdin.buffer.readline()
    if not line:
        return ORPHANED
    orders = Orders.decode(line)
    set_up(orders.settings.log_level, names_itself=True)
    relax_collector()
    try:
        uvloop.run(_serve(orders))
    except StartError as error:
        _report(Report(error=str(error)))
        return 1
    return 0


async def _serve(orders: Orders) -> None:
    asyncio.get_running_loop().add_reader(STDIN, os._exit, ORPHANED)
    sockets = [socket.socket(fileno=number) for number in orders.sockets]
    await serve(orders.settings, _announce, sockets)


def _announce(where: Listening) -> None:
    _report(Report(where.url, where.store))


def _report(report: Report) -> None:
    os.write(STDOUT, report.encode())
    os.dup2(STDERR, STDOUT)


if __name__ == "__main__":
    sys.exit(main())
