"""One connection to the server: opened by redis-py, then written and read here.

Rules: with `address`, the only module that knows redis-py. It knows replies, not their meaning.

redis-py reads each reply in a coroutine with a time-out, which costs 8 µs; hiredis's parser alone costs less than 1 µs. So the
streams are taken out of redis-py's open connection. Callers have their own time-outs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from broker.stores.redis.address import CONNECT_SECONDS, Address
from broker.stores.redis.task_owner import mark_retrieved

READ_BYTES = 256 << 10

Reply = Any
"""A RESP2 value: bytes, int, None, a list of replies, or `ServerError`."""

ServerError = hiredis.ReplyError
Argument = str | bytes | int
pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


class LinkLost(Exception):
    """The connection is gone or couldn't be made, by a fault of the server or the network.

    Attributes:
        public: the text without addresses, for answers to clients.
    """

    def __init__(self, text: str, public: str = "") -> None:
        super().__init__(text)
        self.public = public or text


class Refused(LinkLost):
    """The server refuses access: the operator's fault."""


class Link:
    """An open connection.

    Attributes:
        run_id: the id of the server's process.
        info: the fields of the server's INFO.
    """

    def __init__(self, connection: AbstractConnection, info: Mapping[str, str], client_id: int) -> None:
        self.info = info
        self.run_id = info["run_id"]
        self.client_id = client_id
        self._aborted: tuple[str, str] | None = None
        self._connection = connection  # kept, since it closes its streams when it is collected
        self._reader: asyncio.StreamReader = connection._reader  # type: ignore[assignment] # noqa: SLF001
        self._writer: asyncio.StreamWriter = connection._writer  # type: ignore[assignment] # noqa: SLF001

    async def end_client(self, client_id: int) -> str:
        """End another connection of ours on the server, before `read`. Returns the server's objection, or ""."""
        objection = ""
        try:
            await _ask(self._connection, "CLIENT", "KILL", "ID", str(client_id))
        except ResponseError as error:
            objection = "" if "No such client" in str(error) else str(error)
        except (RedisError, *_GONE) as error:
            _check_cancelled()
            raise LinkLost(str(error), "the connection was lost") from None
        _check_cancelled()
        return objection

    def write(self, data: bytes) -> None:
        """Send packed commands. If the connection is lost, `read` reports it."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def read(self, on_reply: Callable[[Reply], None], flowing: asyncio.Event | None = None) -> None:
        """Pass each reply to `on_reply`, in order, until the connection is lost; always raises `LinkLost`.

        While `flowing` isn't set, nothing is read: data piles up on the server.
        """
        # A task of its own, lest each reply resume the callers' coroutines too.
        reading = asyncio.create_task(self._read(on_reply, flowing), name="broker store reader")
        reading.add_done_callback(mark_retrieved)
        await reading

    async def _read(self, on_reply: Callable[[Reply], None], flowing: asyncio.Event | None) -> None:
        parser = hiredis.Reader(notEnoughData=_NOTHING, replyError=ServerError)
        while True:
            if flowing is not None and not flowing.is_set():
                await flowing.wait()
            try:
                data = await self._reader.read(READ_BYTES)
            except _GONE as error:
                raise LinkLost(*self._aborted or (str(error), "the connection was lost")) from None
            if not data:
                raise LinkLost(*self._aborted or ("the server closed the connection",))
            parser.feed(data)
            while True:
                try:
                    reply = parser.gets()
                except hiredis.ProtocolError as error:
                    raise LinkLost(f"the server doesn't speak the Redis protocol: {error}") from None
                if reply is _NOTHING:
                    break
                on_reply(reply)

    def abort(self, why: str = "closed", public: str = "") -> None:
        """Make `read` raise `LinkLost` with these texts."""
        self._aborted = self._aborted or (why, public)
        self._writer.transport.abort()

    async def close(self) -> None:
        self.abort()
        await self._connection.disconnect(nowait=True)


_NOTHING = object()
_GONE = (OSError, RuntimeError)
"""Errors of a lost connection; uvloop may raise `RuntimeError`."""

_UNREACHABLE = "the server can't be reached"
CLUSTER = "is a node of a Redis Cluster, which isn't supported: use a single server, or Sentinels"
"""For the operator, if another node has the slot of all keys."""

_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)


async def open_link(address: Address, key: str = "") -> Link:
    """Connect to a master that has the slot of `key`, if it is a cluster's node.

    Raises:
        Refused: authentication failed, a right is missing, or another node has the slot.
        LinkLost: any other failure, such as a server that is a replica.
    """
    try:
        return await _open_link(address, key)
    except LinkLost:
        _check_cancelled()
        raise


async def _open_link(address: Address, key: str) -> Link:
    try:
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            connection = await address.connect()
            try:
                link = await _greet(connection, key)
                _check_cancelled()
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
        if is_refusal:
            raise Refused(f"refuses access: {error}", "the server refuses access") from None
        public = "the server's certificate is not trusted" if "certificate" in str(error) else _UNREACHABLE
        raise LinkLost(str(error), public) from None
    except (LookupError, ValueError, AttributeError) as error:  # of a malformed reply
        raise LinkLost(f"the server doesn't speak the Redis protocol: {error}") from None


def _check_cancelled() -> None:
    """Raise a cancellation that redis-py has lost: in Python 3.11 `asyncio.wait_for` can swallow one."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _greet(connection: AbstractConnection, key: str) -> Link:
    info = fields(await _ask(connection, "INFO"))
    if info.get("role") != "master":
        raise LinkLost("the server is a replica")
    if info.get("loading") == "1":
        raise LinkLost("the server is loading its data")
    if key and info.get("cluster_enabled") == "1":
        try:
            await _ask(connection, "EXISTS", key)
        except (MovedError, AskError):
            raise Refused(CLUSTER) from None
    return Link(connection, info, int(await _ask(connection, "CLIENT", "ID")))


async def _ask(connection: AbstractConnection, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def fields(text: bytes | str) -> Mapping[str, str]:
    """The fields of an INFO reply."""
    lines: Sequence[str] = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
