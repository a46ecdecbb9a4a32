"""A TCP proxy that cuts connections at a chosen byte, and remembers the bytes it passed on.

It knows nothing of HTTP: any network may fail in the same ways.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tests.support.http import RESET_ON_CLOSE
from tests.support.waiting import WAIT_SECONDS

JOIN_SECONDS = WAIT_SECONDS


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut the connection that carries `marker` to the client, `offset` bytes behind the marker's start.

    With `reset` the client gets a RST, else a FIN, as if the server had ended the stream.
    """

    marker: bytes
    offset: int = 0
    reset: bool = False


FRAME_BYTES = len(b"data: e00\nid: 1763791200123-0\n\n")
DATA_LINE_BYTES = len(b"data: e00\n")
ID_LINE_END = FRAME_BYTES - 1
"""From here to the frame's end the client has the event's id but not yet the event."""


def cut_events(offsets: Iterable[int], *, reset: bool = False) -> dict[str, Cut]:
    """The data of an event for each offset, and the cut within it; to be published without a type, in this order."""
    return {f"e{offset:02}": Cut(b"data: e%02d\n" % offset, offset, reset) for offset in offsets}


class CuttingProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `port`; a context manager.

    The cuts come true in their order, each once, on whatever connection carries the next one's marker first.

    Attributes:
        url: such as `http://127.0.0.1:40123`.
        connected_at: when each connection that carried a stream began to; monotonic seconds.
    """

    def __init__(self, port: int, cuts: Iterable[Cut] = ()) -> None:
        self._port = port
        self._cuts = deque(cuts)
        self._lock = threading.Lock()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._carried: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connected_at: list[float] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive()

    def cut_all(self) -> None:
        """Cut all open connections, now."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @property
    def cuts_left(self) -> int:
        """How many cuts haven't come true yet."""
        return len(self._cuts)

    @property
    def streams(self) -> int:
        """How many event streams it has carried, in whole or in part."""
        return len(self.connected_at)

    def shortest_pause(self) -> float:
        """The shortest time from one stream's start to the next one's, in seconds."""
        return min(later - sooner for sooner, later in itertools.pairwise(self.connected_at))

    def heartbeats(self) -> int:
        """How many heartbeats the newest stream has brought so far; the one at its start counts."""
        with self._lock:
            newest = next((data for data in reversed(self._carried) if b"text/event-stream" in data), b"")
            return bytes(newest).split(b"\n").count(b":")

    def _spawn(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port), timeout=JOIN_SECONDS)
            except OSError:
                client.close()  # the broker isn't there: neither is the proxy
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            self._spawn(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        upstream = threading.Thread(target=_pass_on, args=(client, server), daemon=True)
        upstream.start()
        reset = self._carry(server, client)
        with self._lock:
            self._open -= {client, server}
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            for sock in (client, server):
                with contextlib.suppress(OSError):
                    # Wakes the thread that reads it. A shutdown of the client's sending side would be a FIN before the RST.
                    sock.shutdown(socket.SHUT_RD if reset and sock is client else socket.SHUT_RDWR)
        upstream.join(JOIN_SECONDS)
        client.close()
        server.close()

    def _carry(self, server: socket.socket, client: socket.socket) -> bool:
        """Pass on to the client until a cut or the end; whether the client is to see a reset."""
        carried = bytearray()
        with self._lock:
            self._carried.append(carried)
        is_stream = False
        while data := _received(server):
            with self._lock:
                kept, cut = self._up_to_cut(bytes(carried), data)
                carried += kept
                if not is_stream and b"text/event-stream" in carried:
                    is_stream = True
                    self.connected_at.append(time.monotonic())
            try:
                client.sendall(kept)
            except OSError:
                return False
            if cut is not None:
                return cut.reset
        return False

    def _up_to_cut(self, carried: bytes, data: bytes) -> tuple[bytes, Cut | None]:
        """What of `data` may still pass, and the cut that comes then."""
        if not self._cuts:
            return data, None
        cut = self._cuts[0]
        start = (carried + data).find(cut.marker)
        if start < 0 or start + cut.offset > len(carried) + len(data):
            return data, None
        self._cuts.popleft()
        return data[: max(0, start + cut.offset - len(carried))], cut


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    while data := _received(source):
        try:
            target.sendall(data)
        except OSError:
            break
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""
