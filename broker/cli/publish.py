"""Publish one event, or the events on standard input, and print their ids.

Rules: one event is published by the blocking `publish`, which loads quickly and has no retries; lines by `Client`, with
retries; NDJSON in one request. Ids go to standard output, all else to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from broker.cli import common
from broker.cli.progress import Progress, progress_bar
from broker.client import ClientError, publish

if TYPE_CHECKING:
    from broker.client import Client

STDIN = 0
CHUNK_BYTES = 64 << 10
MAX_LINE_BYTES = 16 << 20

EPILOG = """\
Lines (-): each line of standard input is the data of one event, published when it is complete; its id is printed. If the
broker is unreachable, the line is retried for at most 30 s. An idempotency key ensures that it is published only once.

NDJSON (--ndjson): each line is {"data": ..., "event": "TYPE"}. With -, all lines go in one request, each as it comes: many
times faster, but without retries. The first and the last id are printed.

examples:
  broker publish news 'hello'
  tail -f app.log | broker publish logs -
  broker publish answers.7 '' --end --reason failed
  jq -c '{data: .}' big.json | broker publish items - --ndjson

Exit status: 0 if everything was published; 1 if something was not; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker publish`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topic", type=common.topic, metavar="TOPIC", help="topic to publish to")
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="the event's data, or - for the lines of standard input (default: -, unless standard input is a terminal)",
    )
    parser.add_argument(
        "--event", type=common.text, metavar="TYPE", help="the event's type; cannot be used with --ndjson"
    )
    parser.add_argument(
        "--end",
        action="store_true",
        help="close the topic with this event, or without one if DATA is empty; needs DATA",
    )
    parser.add_argument(
        "--retain",
        type=common.text,
        metavar="TIME",
        help="how long a new topic keeps its events, such as 24h; cannot be used with --ndjson",
    )
    parser.add_argument(
        "--reason", type=common.text, metavar="WORD", help="why the topic ends, such as failed; needs --end"
    )
    parser.add_argument("--ndjson", action="store_true", help="publish NDJSON")
    common.add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Publish, and return the exit status that the help describes."""
    mistake = _usage_mistake(args)
    if mistake:
        common.say("publish", mistake)
        return 2
    try:
        if args.data in (None, "-") or args.ndjson:
            return asyncio.run(_publish_many(args))
        event_id = publish(
            args.url,
            args.topic,
            os.fsencode(args.data),
            args.event,
            token=args.token,
            end=args.end,
            retain=args.retain,
            reason=args.reason,
        )
        print(event_id)
    except (ClientError, _BadInput) as error:
        refusal = error if isinstance(error, ClientError) else None
        common.say("publish", common.client_error_text(refusal, args.url) if refusal else str(error))
        return 1
    except BrokenPipeError:
        common.silence_stdout()
        return 1
    return 0


def _usage_mistake(args: argparse.Namespace) -> str | None:
    if args.event is not None and args.ndjson:
        return "--event cannot be used with --ndjson: each line has its own type"
    if args.retain is not None and args.ndjson:
        return "--retain cannot be used with --ndjson"
    if args.end and (args.ndjson or args.data in (None, "-")):
        return "--end needs DATA: it closes the topic with one event; use '' to close it without one"
    if args.reason is not None and not args.end:
        return "--reason needs --end"
    if args.data is None and (sys.stdin is None or sys.stdin.isatty()):
        return "DATA is missing; use - to type lines"
    return None


class _BadInput(Exception):
    """Standard input cannot be read or published. The text names the line."""


async def _publish_many(args: argparse.Namespace) -> int:
    from broker.client import Client  # loads aiohttp, which takes 0.2 s and is not needed for one event

    progress = _progress()
    async with Client(args.url, token=args.token) as client:
        with progress:
            progress.begin("0 lines", _stdin_bytes())
            publish_all = _publish_ndjson if args.ndjson else _publish_lines
            await publish_all(client, args, _Counter(progress))
    return 0


async def _publish_ndjson(client: Client, args: argparse.Namespace, counter: _Counter) -> None:
    published = await client.publish_ndjson(args.topic, _counted(_input(args.data), counter))
    for event_id in dict.fromkeys((published.first_id, published.last_id)):
        if event_id is not None:
            print(event_id)


async def _publish_lines(client: Client, args: argparse.Namespace, counter: _Counter) -> None:
    number = 0
    async for line in lines(_input(args.data)):
        number += 1
        try:
            event_id = await client.publish(
                args.topic, line.removesuffix(b"\r"), args.event, retain=args.retain
            )
        except ClientError as error:
            raise _BadInput(f"line {number}: {common.client_error_text(error, args.url)}") from None
        print(event_id, flush=True)
        counter.add(1, len(line) + 1)


# Input


async def _input(data: str | None) -> AsyncIterator[bytes]:
    """`data`, or the chunks of standard input as they come."""
    if data is not None and data != "-":
        yield os.fsencode(data)
        return
    async for chunk in _stdin():
        yield chunk


async def _stdin() -> AsyncIterator[bytes]:
    """Standard input, read by a daemon thread: a read cannot be cancelled, and must not delay the exit."""
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
                return  # the loop is closed

    threading.Thread(target=read, daemon=True).start()
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise _BadInput(f"cannot read standard input: {chunk.strerror}")
        wanted.release()
        yield chunk


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of `chunks` without LF, also after the last LF. Raises `_BadInput` for one over `MAX_LINE_BYTES`."""
    rest: list[bytes] = []
    size = done = 0
    async for chunk in chunks:
        *complete, piece = chunk.split(b"\n")
        for line in complete:
            yield b"".join((*rest, line))
            rest, size = [], 0
            done += 1
        rest.append(piece)
        size += len(piece)
        if size > MAX_LINE_BYTES:
            raise _BadInput(f"line {done + 1}: it is longer than {MAX_LINE_BYTES} bytes")
    if size:
        yield b"".join(rest)


async def _counted(chunks: AsyncIterator[bytes], counter: _Counter) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        counter.add(chunk.count(b"\n"), len(chunk))


# Progress


def _progress() -> Progress:
    """A bar if standard error is a terminal, but not if the ids go to a terminal too."""
    bar = progress_bar("publish") if sys.stderr.isatty() and not sys.stdout.isatty() else None
    return bar or Progress()


class _Counter:
    """Counts lines and bytes for the progress bar; bytes have a total if standard input is a file."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lines = self._bytes = 0

    def add(self, lines: int, size: int) -> None:
        self._lines += lines
        self._bytes += size
        self._progress.update(self._bytes, f"{self._lines:,} lines")


def _stdin_bytes() -> int | None:
    try:
        status = os.fstat(STDIN)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
