"""Connections to brokers, kept for the next request.

Rules: safe with threads; a connection belongs to one thread at a time. A forked process shares the sockets of its parent: if
both used them, requests and responses would mix, and a connection that the parent closes would stay open. So a child closes
its copies of all sockets, including those in use, before anything else runs in it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakSet

from broker.client.sockets import limit_unacknowledged

MAX_IDLE = 10
"""Kept connections of one pool."""
MAX_IDLE_SECONDS = 60.0
"""Seconds; shorter than a broker's `keepalive_seconds`."""
MAX_INTERIM = 100
READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of a URL that `base_url` has checked."""
        parts = urlsplit(url)
        assert parts.hostname
        return cls(parts.scheme, parts.hostname, parts.port)


class FinalResponse(http.client.HTTPResponse):
    """Passes over all interim responses (RFC 9110 §15.2); `http.client` passes over 100 only."""

    def begin(self) -> None:
        super().begin()
        for _ in range(MAX_INTERIM):
            if not HTTPStatus.CONTINUE <= self.status < HTTPStatus.OK or (
                self.status == HTTPStatus.SWITCHING_PROTOCOLS
            ):
                return
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        raise http.client.HTTPException("too many interim responses")


class _OnePiece(http.client.HTTPConnection):
    """Sends a request in one piece. In two, its head and its body, it costs the broker a fifth more."""

    response_class = FinalResponse
    _pieces: list[bytes] | None = None

    def send(self, data: Any) -> None:
        if self._pieces is None:
            super().send(data)
        else:
            self._pieces.append(data)

    def send_request(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """The same as `request`."""
        pieces: list[bytes] = []
        self._pieces = pieces
        try:
            self.request(method, target, body, dict(headers))
        finally:
            self._pieces = None
        super().send(b"".join(pieces))


class _OnePieceTls(http.client.HTTPSConnection, _OnePiece):
    """The same over TLS."""


class PooledConnection:
    """One open connection.

    Attributes:
        is_reused: it has had a request before, so the broker may close it at any time.
    """

    def __init__(self, origin: Origin, timeout_seconds: float, tls: ssl.SSLContext | None) -> None:
        self.origin = origin
        self.is_reused = False
        self.idle_since = 0.0
        self.http: _OnePiece = (
            _OnePieceTls(
                origin.host,
                origin.port,
                timeout=timeout_seconds,
                context=tls or ssl.create_default_context(),
            )
            if origin.scheme == "https"
            else _OnePiece(origin.host, origin.port, timeout=timeout_seconds)
        )
        try:
            self.http.connect()
        except BaseException:
            self.http.close()
            raise
        self._response: http.client.HTTPResponse | None = None
        self.sock: socket.socket = self.http.sock  # `http` forgets it if the broker will close it
        limit_unacknowledged(self.sock)

    def receive_now(self) -> bytes | None:
        """Read without waiting. None if nothing has arrived; `b""` after the peer's end. Raises `OSError`."""
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            return self.sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        finally:
            self.sock.settimeout(timeout)

    @property
    def is_stale(self) -> bool:
        """Whether an idle connection is useless: it has ended, or bytes have arrived that answer no request."""
        try:
            return self.receive_now() is not None
        except OSError:
            return True

    def read_head(self) -> http.client.HTTPResponse:
        """The head of the response to the last request. `close` closes the response too."""
        self._response = self.http.getresponse()
        return self._response

    def shut_down(self) -> None:
        """End the connection from another thread; a read that waits returns."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. If another thread reads from it, that thread must return first."""
        if self._response is not None:
            self._response.close()
        self.http.close()
        self.sock.close()

    def forget(self) -> None:
        """Close this process's copy of the socket after a fork.

        Touches no lock and no buffer: the thread that held them doesn't exist here.
        """
        with contextlib.suppress(OSError):
            os.close(self.sock.detach())


class ConnectionPool:
    """Keeps up to `MAX_IDLE` idle connections, of any origin.

    Args:
        tls: by default the system's certificates, read for each new connection.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._is_closed = False
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[PooledConnection] = []  # the one used last comes last
        self._open: WeakSet[PooledConnection] = WeakSet()  # idle and in use

    def take(self, origin: Origin, timeout_seconds: float) -> PooledConnection:
        """An idle connection that is still good, or a new one. Raises `OSError`."""
        self._check_process()
        while (connection := self._take_idle(origin)) is not None:
            if not connection.is_stale:
                connection.is_reused = True
                connection.sock.settimeout(timeout_seconds)
                return connection
            connection.close()
        return self.connect(origin, timeout_seconds)

    def connect(self, origin: Origin, timeout_seconds: float) -> PooledConnection:
        """A new connection. Raises `OSError`."""
        self._check_process()
        connection = PooledConnection(origin, timeout_seconds, self._tls)
        self._open.add(connection)
        return connection

    def _take_idle(self, origin: Origin) -> PooledConnection | None:
        with self._lock:
            for connection in reversed(self._idle):
                if connection.origin == origin:
                    self._idle.remove(connection)
                    return connection
        return None

    def give_back(self, connection: PooledConnection) -> None:
        """Keep `connection` for the next request; the response to the last one has been read."""
        now = time.monotonic()
        connection.idle_since = now
        with self._lock:
            self._idle.append(connection)
            old = [one for one in self._idle if now - one.idle_since > MAX_IDLE_SECONDS]
            kept = [one for one in self._idle if one not in old]
            self._idle = [] if self._is_closed else kept[-MAX_IDLE:]
            old += [one for one in kept if one not in self._idle]
        for one in old:
            one.close()

    def close(self) -> None:
        """Close the idle connections, and from now on each connection that comes back."""
        self._check_process()
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _check_process(self) -> None:
        """Start anew if the process was forked without Python's hooks."""
        if self._pid != os.getpid():
            self.forget()

    def forget(self) -> None:
        """Start anew in a forked process."""
        inherited = list(self._open)
        self._begin()
        for connection in inherited:
            connection.forget()


_pools: WeakSet[ConnectionPool] = WeakSet()


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
