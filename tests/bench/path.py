"""The path of one POST through the package: `python -m tests.bench.path [--redis URL]`.

One process serves, publishes and subscribes. Once the path is warm, one POST is recorded, from the arrival of its bytes
until the fan-out to its one subscriber is over. Printed are the calls of Python functions in `broker/`, how many files
they are in, and how often a call is in another file than the call before it.

A resumed coroutine or generator counts as a call, as for `sys.setprofile`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import broker
from broker.settings import Settings
from tests.support.local_broker import Server

ROOT = str(Path(broker.__file__).parent) + os.sep
WARM_POSTS = 200
TOPIC = "news"


class Recorder:
    """Records calls in `broker/` until the turn of the loop is over in which `os.write` was called for the subscriber."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._is_written = self._is_done = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if self._is_done:
            return
        if event == "c_call":
            self._is_written = self._is_written or argument is os.write
        elif not frame.f_code.co_filename.startswith(ROOT):
            return
        elif event == "call":
            self.calls.append((frame.f_code.co_filename.removeprefix(ROOT), frame.f_code.co_qualname))
        elif event == "return" and self._is_written:
            caller = frame.f_back
            self._is_done = caller is None or not caller.f_code.co_filename.startswith(ROOT)

    @property
    def files(self) -> Counter[str]:
        """Calls by file."""
        return Counter(file for file, _ in self.calls)

    @property
    def file_changes(self) -> int:
        """How many calls are in another file than the call before them."""
        files = [file for file, _ in self.calls]
        return sum(before != file for before, file in itertools.pairwise(files))


async def record(settings: Settings) -> Recorder:
    """Serve, warm the path, and record one POST."""
    server = Server(settings, time.time)
    await server.start()
    try:
        stream = await server.subscribe(f"/topics/{TOPIC}")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = (
            f"POST /topics/{TOPIC} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 5\r\n\r\nhello"
        ).encode()

        async def post(number: int) -> None:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201"), head
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            await stream.data(number)

        for number in range(1, WARM_POSTS + 1):
            await post(number)
        recorder = Recorder()
        sys.setprofile(recorder)
        try:
            await post(WARM_POSTS + 1)
        finally:
            sys.setprofile(None)
        writer.close()
    finally:
        await server.stop()
    return recorder


def main() -> None:
    """Record and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.path", description=__doc__)
    parser.add_argument("--redis", metavar="URL", help="the shared store; without it, the store in memory")
    parser.add_argument("--show", action="store_true", help="list the calls in their order")
    args = parser.parse_args()
    recorder = asyncio.run(record(Settings(redis_url=args.redis)))
    if args.show:
        for file, name in recorder.calls:
            print(f"{file:40} {name}")
    print(f"{len(recorder.calls)} calls in {len(recorder.files)} files, {recorder.file_changes} file changes")


if __name__ == "__main__":
    main()
