"""Publish an event, or those that standard input brings; print their ids.

Rules: one event goes by the blocking `publish`, which starts quickly, and fails at once where there is no broker. Lines go
by the client, each with its retries; NDJSON in one request. Ids to standard output, all else to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from broker.cli import remote
from broker.client import ClientError, publish

if TYPE_CHECKING:
    from broker.client import Client

STDIN = 0
CHUNK_BYTES = 64 << 10
MAX_LINE_BYTES = 16 << 20

EPILOG = """\
Lines (-): each line of standard input is an event's data, published as soon as it has come, and repeated by an idempotency
key where the broker is away for a while (30 s at most), so that it is published once. The id of each is printed.

NDJSON (--ndjson): each line is {"data": ..., "event": "TYPE"}. With - it all goes in one request, each line as it comes: many
times faster, and not repeated where the connection is cut. The first and the last id are printed.

examples:
  broker publish news 'hello'
  tail -f app.log | broker publish logs -
  jq -c '{data: .}' big.json | broker publish items - --ndjson

Exit status: 0; 1 where something was not published; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `broker publish`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topic", type=remote.topic, metavar="TOPIC", help="where to publish")
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="the event's data; - for the lines of standard input, and so is none at all where that isn't a terminal",
    )
    parser.add_argument(
        "--event", type=remote.text, metavar="TYPE", help="the event's type; not with --ndjson"
    )
    parser.add_argument("--ndjson", action="store_true", help="what is published is NDJSON")
    remote.add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Publish. The exit status is that of the help."""
    wrong = _wrong_usage(args)
    if wrong:
        remote.say("publish", wrong)
        return 2
    try:
        if args.data in (None, "-") or args.ndjson:
            return asyncio.run(_publish_many(args))
        print(publish(args.url, args.topic, os.fsencode(args.data), args.event, token=args.token))
    except (ClientError, _BadInput) as error:
        remote.say("publish", str(error))
        return 1
    except BrokenPipeError:
        remote.silence_stdout()
        return 1
    return 0


def _wrong_usage(args: argparse.Namespace) -> str | None:
    if args.event is not None and args.ndjson:
        return "--event doesn't go with --ndjson, where each line has its own"
    if args.data is None and (sys.stdin is None or sys.stdin.isatty()):
        return "no DATA given; write - to type lines"
    return None


class _BadInput(Exception):
    """What is wrong with standard input, with the number of the line if it is one."""


async def _publish_many(args: argparse.Namespace) -> int:
    from broker.client import Client  # takes aiohttp, 0.2 s, which one event doesn't need

    progress = _shown_progress()
    async with Client(args.url, token=args.token) as client:
        with progress:
            if args.ndjson:
                await _publish_ndjson(client, args, progress)
            else:
                await _publish_lines(client, args, progress)
    return 0


async def _publish_ndjson(client: Client, args: argparse.Namespace, progress: Progress) -> None:
    published = await client.publish_ndjson(args.topic, _counted(_input(args.data), progress))
    for event_id in dict.fromkeys((published.first_id, published.last_id)):
        if event_id is not None:
            print(event_id)


async def _publish_lines(client: Client, args: argparse.Namespace, progress: Progress) -> None:
    number = 0
    async for line in lines(_input(args.data)):
        number += 1
        try:
            event_id = await client.publish(args.topic, line.removesuffix(b"\r"), args.event)
        except ClientError as error:
            raise _BadInput(f"line {number}: {error}") from None
        print(event_id, flush=True)
        progress.advance(1, len(line) + 1)


# Input


async def _input(data: str | None) -> AsyncIterator[bytes]:
    """`data` itself, or what comes on standard input, as it comes."""
    if data is not None and data != "-":
        yield os.fsencode(data)
        return
    async for chunk in _stdin():
        yield chunk


async def _stdin() -> AsyncIterator[bytes]:
    """Standard input, read by a thread that nobody waits for: a read can't be cancelled, and must not hold up the exit."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    wanted = threading.Semaphore(1)

    def read() -> None:
        chunk: bytes | OSError = b"-"
        while chunk and not isinstance(chunk, OSError):
            wanted.acquire()
            try:
                chunk = os.read(STDIN, CHUNK_BYTES)
            except OSError as error:
                chunk = error
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:
                return  # the loop is closed: nobody wants it any more

    threading.Thread(target=read, daemon=True).start()
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise _BadInput(f"can't read standard input: {chunk.strerror}")
        wanted.release()
        yield chunk


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of `chunks` without their LF; the last one needs none. Raises `_BadInput` for one over `MAX_LINE_BYTES`."""
    rest: list[bytes] = []
    size = done = 0
    async for chunk in chunks:
        *ended, piece = chunk.split(b"\n")
        for line in ended:
            yield b"".join((*rest, line))
            rest, size = [], 0
            done += 1
        rest.append(piece)
        size += len(piece)
        if size > MAX_LINE_BYTES:
            raise _BadInput(f"line {done + 1}: it is over {MAX_LINE_BYTES} bytes")
    if size:
        yield b"".join(rest)


async def _counted(chunks: AsyncIterator[bytes], progress: Progress) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        progress.advance(chunk.count(b"\n"), len(chunk))


# Progress


class Progress(Protocol):
    """How far it is, shown as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, lines: int, size: int) -> None:
        """So many lines more, of so many bytes."""


def _shown_progress() -> Progress:
    """A bar on a terminal, unless the ids run over it; nothing elsewhere."""
    return _Bar() if sys.stderr.isatty() and not sys.stdout.isatty() else _Nothing()


class _Nothing:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to take down."""

    def advance(self, lines: int, size: int) -> None:
        """Nobody looks."""


class _Bar:
    """Lines, and the share of bytes where standard input is a file."""

    def __init__(self) -> None:
        from rich.console import Console  # takes 0.1 s, and is seldom needed
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("{task.fields[lines]:,} lines"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._lines = 0
        self._task = self._rich.add_task("", total=_stdin_bytes(), lines=0)

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()

    def advance(self, lines: int, size: int) -> None:
        self._lines += lines
        self._rich.update(self._task, advance=size, lines=self._lines)


def _stdin_bytes() -> int | None:
    try:
        status = os.fstat(STDIN)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
