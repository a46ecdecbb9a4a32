"""The transport of plain connections, on a pair of sockets."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, cast

import pytest

from broker.process.coalescing import SAMPLE
from broker.process.socket_polling import READ_BYTES, SocketPolling
from broker.process.socket_transport import SocketTransport, connect
from tests.support.waiting import WAIT_SECONDS, until

LARGE = b"x" * (4 << 20)
"""More than the kernel's buffers take."""


class Recorder(asyncio.Protocol):
    """Notes what its transport calls."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.calls: list[str] = []
        self.received = b""
        self.error: Exception | None = None
        self.transport: SocketTransport
        self._keeps_open = keeps_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SocketTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self._keeps_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc

    @property
    def is_lost(self) -> bool:
        return "lost" in self.calls


class Wiring:
    """Connections of one polling, with their far ends."""

    def __init__(self) -> None:
        self.polling = SocketPolling(asyncio.get_running_loop())
        self.fars: list[socket.socket] = []

    def connect(self, protocol: asyncio.Protocol, *, tcp: bool = False) -> socket.socket:
        """Connect `protocol`; returns the far end."""
        if tcp:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                far = socket.create_connection(listening.getsockname())
                near, _ = listening.accept()
        else:
            near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.fars.append(far)
        connect(self.polling, near, protocol)
        return far


@pytest.fixture
async def wiring() -> AsyncIterator[Wiring]:
    made = Wiring()
    yield made
    made.polling.stop()
    for far in made.fars:
        far.close()
    await until(lambda: made.polling._prompt.closed, "the epolls are released after the last connection")
    assert made.polling._coalescing.epoll.closed


async def read_all(far: socket.socket) -> bytes:
    """Everything up to the end."""
    loop = asyncio.get_running_loop()
    read = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while piece := await loop.sock_recv(far, 1 << 20):
            read += piece
    return read


async def test_it_brings_what_arrives_and_sends_what_is_written(wiring: Wiring) -> None:
    near = Recorder()
    far = wiring.connect(near)
    far.send(b"x" * (READ_BYTES + 1000))
    await until(lambda: len(near.received) == READ_BYTES + 1000, "all has arrived")
    near.transport.write(b"hello")
    assert far.recv(100) == b"hello", "at once"
    assert near.calls == []


async def test_a_rest_pauses_the_protocol_until_it_has_left(wiring: Wiring) -> None:
    near = Recorder()
    far = wiring.connect(near)
    near.transport.write(LARGE)
    assert near.calls == ["pause"]
    near.transport.write(b"last")
    left = near.transport.get_write_buffer_size()
    assert 0 < left < len(LARGE) + 4
    near.transport.close()
    near.transport.write(b"")
    assert await read_all(far) == LARGE + b"last"
    await until(lambda: near.is_lost, "it has closed")
    assert near.calls == ["pause", "lost"]
    assert near.error is None


async def test_i4_what_many_transports_have_yet_to_send_is_kept_once(wiring: Wiring) -> None:
    event = bytes(range(256)) * 4096
    nears = [Recorder() for _ in range(50)]
    fars = [wiring.connect(near) for near in nears]
    tracemalloc.start()
    try:
        for number, near in enumerate(nears):
            near.transport.write(event if number % 2 else memoryview(event)[1000:])
            near.transport.write(b"next")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < len(event) / 2
    for number, (near, far) in enumerate(zip(nears, fars, strict=True)):
        assert near.transport.get_write_buffer_size() > len(event) / 2
        near.transport.close()
        assert await read_all(far) == event[0 if number % 2 else 1000 :] + b"next"


@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))])
async def test_what_its_caller_may_change_is_copied(
    wiring: Wiring, kind: Callable[[bytes], bytearray | memoryview]
) -> None:
    near = Recorder()
    far = wiring.connect(near)
    data, last = kind(LARGE), kind(b"last")
    near.transport.write(data)
    near.transport.write(last)
    near.transport.write(b"")
    data[-4:] = last[:] = b"late"
    near.transport.close()
    assert await read_all(far) == LARGE + b"last"


async def test_the_protocol_is_resumed(wiring: Wiring) -> None:
    near = Recorder()
    far = wiring.connect(near)
    near.transport.write(LARGE)
    near.transport.write_eof()
    assert await read_all(far) == LARGE
    await until(lambda: near.calls == ["pause", "resume"], "the protocol is resumed")
    assert not near.transport.is_closing()
    far.send(b"still read")
    await until(lambda: near.received == b"still read", "it reads on after its own end")


async def test_paused_it_reads_nothing(wiring: Wiring) -> None:
    near, other = Recorder(), Recorder()
    far, other_far = wiring.connect(near), wiring.connect(other)
    near.transport.pause_reading()
    assert not near.transport.is_reading()
    far.send(b"a")
    other_far.send(b"b")
    await until(lambda: other.received == b"b", "the other one is read")
    assert near.received == b""
    near.transport.resume_reading()
    await until(lambda: near.received == b"a", "it is read again")


@pytest.mark.parametrize("keeps_open", [False, True])
async def test_the_peers_end(wiring: Wiring, keeps_open: bool) -> None:
    near = Recorder(keeps_open=keeps_open)
    far = wiring.connect(near)
    far.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in near.calls, "the end has arrived")
    if keeps_open:
        near.transport.resume_reading()
        assert not near.transport.is_reading(), "there is nothing more to read"
        near.transport.write(b"answer")
        near.transport.close()
    assert await read_all(far) == (b"answer" if keeps_open else b"")
    await until(lambda: near.is_lost, "it has closed")
    assert near.calls == ["eof", "lost"]


async def test_a_reset_is_an_error(wiring: Wiring) -> None:
    near = Recorder()
    far = wiring.connect(near, tcp=True)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    await until(lambda: near.is_lost, "it is lost")
    assert isinstance(near.error, ConnectionResetError)


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_reset_after_the_peers_end_is_noticed(wiring: Wiring, has_ended: bool) -> None:
    """The peer has left without reading what the kernel still holds for it."""
    near, other = Recorder(keeps_open=True), Recorder()
    far, other_far = wiring.connect(near, tcp=True), wiring.connect(other)
    near.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    near.transport.write(b"x" * (1 << 20))
    assert near.transport.get_write_buffer_size() == 0, "all of it is the kernel's"
    far.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in near.calls, "the end has arrived")
    if has_ended:
        near.transport.write_eof()
    for number in range(1, 4):
        other_far.send(b"b")
        await until(lambda number=number: len(other.received) == number, "the other one is read")  # type: ignore[misc]
    assert wiring.polling._prompt.poll(0) == [], "an end wakes the loop only once"
    assert not near.is_lost
    far.close()
    await until(lambda: near.is_lost, "it is lost")
    assert isinstance(near.error, BrokenPipeError if not has_ended else ConnectionResetError)


async def test_a_reset_while_nothing_is_awaited_wakes_nobody(wiring: Wiring) -> None:
    """The kernel reports it for as long as the epoll knows the socket."""
    near, other = Recorder(), Recorder()
    far, other_far = wiring.connect(near, tcp=True), wiring.connect(other)
    near.transport.pause_reading()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    other_far.send(b"b")
    await until(lambda: other.received == b"b", "the other one is read")
    assert wiring.polling._prompt.poll(0) == []
    near.transport.write(b"x")
    near.transport.write(b"x")
    await until(lambda: near.is_lost, "a write finds out")


async def test_after_an_abort_nothing_is_sent_or_brought(wiring: Wiring) -> None:
    near = Recorder()
    far = wiring.connect(near)
    near.transport.write(LARGE)
    far.send(b"unread")
    near.transport.abort()
    near.transport.write(b"more")
    near.transport.close()
    assert near.transport.is_closing()
    assert near.transport.get_write_buffer_size() == 0
    await until(lambda: near.is_lost, "it has ended")
    assert near.received == b""
    assert near.calls == ["pause", "lost"]


async def test_another_protocol_takes_over(wiring: Wiring) -> None:
    first, second = Recorder(), Recorder()
    far = wiring.connect(first)
    first.transport.set_protocol(second)
    far.send(b"a")
    far.close()
    await until(lambda: second.is_lost, "it has ended")
    assert (first.received, second.received) == (b"", b"a")
    assert not first.calls


class Failing(Recorder):
    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._where == "connection_made":
            raise RuntimeError("a defect")

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("a defect")


@pytest.mark.parametrize("where", ["connection_made", "data_received"])
async def test_i9_a_defect_ends_its_own_connection_only(wiring: Wiring, where: str) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    bad, good = Failing(where), Recorder()
    far, good_far = wiring.connect(bad), wiring.connect(good)
    far.send(b"a")
    good_far.send(b"b")
    await until(lambda: bad.is_lost and good.received == b"b", "the others go on")
    assert [str(context["exception"]) for context in reported] == ["a defect"]


class Full:
    """An epoll that takes no further socket, as at the kernel's limit for a user (fs.epoll.max_user_watches)."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoll, name)

    def register(self, _sock: object, _events: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_connection_that_the_kernel_does_not_watch_is_closed(wiring: Wiring) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    good, refused = Recorder(), Recorder()
    good_far = wiring.connect(good)
    epoll = wiring.polling._prompt
    wiring.polling._prompt = cast("select.epoll", Full(epoll))
    far = wiring.connect(refused)
    wiring.polling._prompt = epoll
    await until(lambda: refused.is_lost, "it has ended")
    assert await read_all(far) == b""
    assert [type(context["exception"]) for context in reported] == [OSError]
    good_far.send(b"b")
    await until(lambda: good.received == b"b", "the others go on")


class Coalesced(NamedTuple):
    """A connection with coalesced events, while the timer polls."""

    near: Recorder
    far: socket.socket


@pytest.fixture
async def coalesced(wiring: Wiring) -> Coalesced:
    near = Recorder()
    far = wiring.connect(near, tcp=True)
    near.transport.coalesce(on=True)
    coalescing = wiring.polling._coalescing
    for _ in range(2 * SAMPLE):
        if not coalescing.is_coalescing:
            coalescing._wake()
    assert coalescing.is_coalescing
    return Coalesced(near, far)


async def test_coalesced_it_brings_and_sends_the_same(wiring: Wiring, coalesced: Coalesced) -> None:
    near, far = coalesced
    far.send(b"a")
    assert wiring.polling._prompt.poll(0) == []
    await until(lambda: near.received == b"a", "it has arrived")
    near.transport.write(b"b")
    await until(lambda: far.recv(100) == b"b", "it is sent")
    near.transport.coalesce(on=False)
    far.send(b"c")
    assert wiring.polling._coalescing.epoll.poll(0) == []
    await until(lambda: near.received == b"ac", "it has arrived")


@pytest.mark.parametrize("on", [True, False])
async def test_paused_it_is_switched_as_well(wiring: Wiring, coalesced: Coalesced, on: bool) -> None:
    near, far = coalesced
    near.transport.coalesce(on=not on)
    near.transport.pause_reading()
    near.transport.coalesce(on=on)
    near.transport.coalesce(on=on)
    far.send(b"a")
    near.transport.resume_reading()
    polling = wiring.polling
    epolls = (
        (polling._coalescing.epoll, polling._prompt) if on else (polling._prompt, polling._coalescing.epoll)
    )
    assert [len(epoll.poll(0)) for epoll in epolls] == [1, 0]
    await until(lambda: near.received == b"a", "it is read again")


async def test_coalesced_a_rest_leaves_too(coalesced: Coalesced) -> None:
    near, far = coalesced
    near.transport.write(LARGE)
    near.transport.coalesce(on=False)
    near.transport.coalesce(on=True)
    near.transport.write_eof()
    assert await read_all(far) == LARGE
    await until(lambda: near.calls == ["pause", "resume"], "the protocol is resumed")


async def test_coalesced_the_peers_end_and_a_reset_after_it_are_noticed(coalesced: Coalesced) -> None:
    near, far = coalesced
    near._keeps_open = True
    near.transport.write(b"unread")
    far.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in near.calls, "the end has arrived")
    near.transport.coalesce(on=False)
    near.transport.coalesce(on=True)
    far.close()
    await until(lambda: near.is_lost, "it is lost")


async def test_coalesced_and_aborted(coalesced: Coalesced) -> None:
    near, far = coalesced
    near.transport.abort()
    near.transport.coalesce(on=False)
    assert await read_all(far) == b""
    await until(lambda: near.is_lost, "it has ended")


@pytest.mark.parametrize("on", [True, False])
async def test_a_connection_that_the_kernel_does_not_watch_twice_stays_as_it_is(
    wiring: Wiring, on: bool
) -> None:
    near = Recorder()
    far = wiring.connect(near)
    polling = wiring.polling
    near.transport.coalesce(on=not on)
    prompt, coalescing = polling._prompt, polling._coalescing.epoll
    polling._prompt = cast("select.epoll", Full(prompt))
    polling._coalescing.epoll = cast("select.epoll", Full(coalescing))
    near.transport.coalesce(on=on)
    polling._prompt, polling._coalescing.epoll = prompt, coalescing
    far.send(b"a")
    await until(lambda: near.received == b"a", "it is still read")
    near.transport.coalesce(on=not on)
    far.send(b"b")
    await until(lambda: near.received == b"ab", "it is still read")


async def test_its_extra_information(wiring: Wiring) -> None:
    near = Recorder()
    far = wiring.connect(near, tcp=True)
    get: Callable[[str], object] = near.transport.get_extra_info
    assert get("peername") == far.getsockname()
    assert get("sslcontext") is None
    assert near.transport.get_write_buffer_limits() == (0, 0)
    with pytest.raises(ValueError, match="limits"):
        near.transport.set_write_buffer_limits(high=1)
    assert near.transport.get_protocol() is near
