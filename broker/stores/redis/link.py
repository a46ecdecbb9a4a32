"""One connection to the server: opened by redis-py, then written and read here.

Rules: with `address`, the only place that knows redis-py. It knows bytes and replies, not what they mean.

redis-py's own reader costs 8 µs a reply, for each is a coroutine with a time-out; feeding what arrives to hiredis's parser
costs under 1 µs, and time-outs are kept where the waiting is known. So the streams are taken out of the open connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError

from broker.stores.redis.address import CONNECT_SECONDS, Address

READ_BYTES = 256 << 10

Reply = Any
"""As RESP2 has it: bytes, int, None, a list of replies, or `ServerError`."""

ServerError = hiredis.ReplyError
Argument = str | bytes | int
pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


class LinkLost(Exception):
    """The server's, or the network's: the connection is gone, or couldn't be made; the text says why."""


class Refused(LinkLost):
    """The operator's: the server is there and doesn't let us in."""


class Link:
    """An open connection.

    Attributes:
        run_id: of the server's process: another one after each restart.
        client_id: of this connection, within that process.
        info: what the server says of itself (INFO), by name.
    """

    def __init__(self, connection: AbstractConnection, info: Mapping[str, str], client_id: int) -> None:
        self.info = info
        self.run_id = info["run_id"]
        self.client_id = client_id
        self._aborted = ""
        self._connection = connection  # which closes its streams when nobody refers to it
        self._reader: asyncio.StreamReader = connection._reader  # type: ignore[assignment] # noqa: SLF001
        self._writer: asyncio.StreamWriter = connection._writer  # type: ignore[assignment] # noqa: SLF001

    def write(self, data: bytes) -> None:
        """Send packed commands, in order. Where the connection is lost already, `read` is about to say so."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def read(self, on_reply: Callable[[Reply], None], flowing: asyncio.Event | None = None) -> None:
        """Hand each reply to `on_reply`, in order, until the connection is lost: it always raises `LinkLost`.

        While `flowing` isn't set nothing is read, which the server feels in the end: what it has to say stays there.
        """
        parser = hiredis.Reader(notEnoughData=_NOTHING, replyError=ServerError)
        while True:
            if flowing is not None:
                await flowing.wait()
            parser.feed(await self._receive())
            while (reply := self._next(parser)) is not _NOTHING:
                on_reply(reply)

    async def read_one(self) -> Reply:
        """The next reply, while no other is due. Raises `LinkLost`."""
        parser = hiredis.Reader(notEnoughData=_NOTHING, replyError=ServerError)
        while (reply := self._next(parser)) is _NOTHING:
            parser.feed(await self._receive())
        return reply

    async def _receive(self) -> bytes:
        try:
            data = await self._reader.read(READ_BYTES)
        except _GONE as error:
            raise LinkLost(self._aborted or str(error)) from None
        if not data:
            raise LinkLost(self._aborted or "the server closed the connection")
        return data

    @staticmethod
    def _next(parser: hiredis.Reader) -> Reply:
        try:
            return parser.gets()
        except hiredis.ProtocolError as error:
            raise LinkLost(f"what answers there is no Redis: {error}") from None

    def abort(self, why: str = "closed") -> None:
        """End the connection now; `read` raises `LinkLost`, which says `why`."""
        self._aborted = self._aborted or why
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection and give everything back."""
        self.abort()
        await self._connection.disconnect(nowait=True)


_NOTHING = object()
_GONE = (OSError, RuntimeError)
"""What a connection that is gone raises: uvloop says `RuntimeError` where a transport was closed between two steps."""


_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)


async def open_link(address: Address) -> Link:
    """A connection to the server at `address`, which is one that takes writes.

    Raises:
        Refused: authentication failed, or a right is missing.
        LinkLost: anything else that went wrong, a replica in the master's place included.
    """
    try:
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            connection = await address.connect()
            try:
                link = await _greet(connection)
                _mind_cancelling()
                return link
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
    except TimeoutError:
        raise LinkLost("the server doesn't answer") from None
    except (RedisError, *_GONE) as error:
        is_refusal = isinstance(error, _REFUSALS) or isinstance(
            error.__cause__, _REFUSALS
        )  # redis-py wraps some
        raise (Refused if is_refusal else LinkLost)(str(error)) from None
    except (LookupError, ValueError, AttributeError) as error:  # an answer of another form
        raise LinkLost(f"what answers there is no Redis: {error}") from None


def _mind_cancelling() -> None:
    """End a task that was cancelled while redis-py connected or asked: in Python 3.11 its `wait_for` may lose that.

    A lost one would leave the task running for ever, and whoever awaits its end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _greet(connection: AbstractConnection) -> Link:
    info = _fields(await _ask(connection, "INFO"))
    if info.get("role") != "master":
        raise LinkLost("the server is a replica")
    if info.get("loading") == "1":
        raise LinkLost("the server is loading its data")
    return Link(connection, info, int(await _ask(connection, "CLIENT", "ID")))


async def _ask(connection: AbstractConnection, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def _fields(text: bytes | str) -> Mapping[str, str]:
    lines: Sequence[str] = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
