"""One worker process: its program, and the messages between it and its supervisor.

The supervisor writes a `WorkerConfig` line to the worker's standard input and keeps the pipe open. When the pipe closes, the
supervisor is dead and the worker exits at once: another supervisor may be starting, and subscribers reconnect with their cursors.
The worker writes its endpoint or `StartError` to standard output. The pipes then stay open for the messages of `supervisor_channel`.
Everything else that the process prints goes to standard error.

Rules: settings go through the pipe, because arguments and environment can show passwords to others. The supervisor imports this
module too, so `instance` is imported only where the worker runs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from broker.process.collector import relax_collector
from broker.process.setup import Endpoint, StartError, set_up_process
from broker.process.supervisor_channel import EXIT_ORPHANED, SupervisorChannel
from broker.settings import Settings

STDIN, STDOUT, STDERR = range(3)
EXIT_START_ERROR = 1


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs to start. The `descriptors` are the inherited sockets that it listens on."""

    settings: Settings
    descriptors: Sequence[int]

    def encode(self) -> bytes:
        members = {"settings": self.settings.model_dump(mode="json"), "descriptors": list(self.descriptors)}
        return json.dumps(members).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> WorkerConfig:
        members = json.loads(line)
        return cls(Settings(**members["settings"]), members["descriptors"])


def encode_start(result: Endpoint | StartError) -> bytes:
    """The result of a worker's start as one line of JSON."""
    if isinstance(result, StartError):
        return json.dumps({"error": str(result)}).encode() + b"\n"
    return json.dumps({"urls": result.urls, "store": result.store}).encode() + b"\n"


def decode_start(line: bytes) -> Endpoint:
    """The endpoint in a line from `encode_start`. Raises the `StartError` if the line contains one."""
    members = json.loads(line)
    if "error" in members:
        raise StartError(members["error"])
    return Endpoint(**members)


def main() -> int:
    """Run the worker and return its exit status."""
    line = sys.stdin.buffer.readline()
    if not line:
        return EXIT_ORPHANED
    config = WorkerConfig.decode(line)
    set_up_process(config.settings.log_level, config.settings.log_format, log_pid=True)
    try:
        uvloop.run(_serve(config))
    except StartError as error:
        _write_start(error)
        return EXIT_START_ERROR
    return 0


async def _serve(config: WorkerConfig) -> None:
    from broker.process.instance import Instance

    relax_collector()  # after the import: its objects live as long as the process
    channel = await SupervisorChannel.open(STDIN, os.dup(STDOUT))
    sockets = [socket.socket(fileno=descriptor) for descriptor in config.descriptors]
    instance = Instance(config.settings, sockets, is_worker=True)
    endpoint = await instance.start()
    channel.registry = instance.metrics.registry
    instance.metrics.of_all_workers = channel.merged
    _write_start(endpoint)
    await instance.run()
    await channel.send_last()


def _write_start(result: Endpoint | StartError) -> None:
    os.write(STDOUT, encode_start(result))
    os.dup2(STDERR, STDOUT)


if __name__ == "__main__":
    sys.exit(main())
