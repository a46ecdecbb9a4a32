"""One request whose body is sent in parts, with checks for an early answer in between.

Rules: never waits for the broker to read without also looking for its answer: a producer that is asked to stop is answered in
the middle of its body (contract §2).
"""

from __future__ import annotations

import contextlib
import io
import re
import selectors
import socket
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from broker.client.blocking.connections import READ_BYTES, FinalResponse, PooledConnection
from broker.client.errors import MAX_RESPONSE_BYTES
from broker.client.response import Response

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LEAVE_SECONDS = 2.0
_INTERIM = re.compile(rb"\A(?:HTTP/1\.[01] 1(?!01)\d\d[ \r].*?\r\n\r\n)+", re.DOTALL)
"""Complete interim responses, such as the 100 of a proxy. None of them is the answer."""
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # select has no room above 1,024


class StreamedBody:
    """A POST request after its head was sent. Raises `OSError` or `HTTPException` if the connection is lost.

    Args:
        headers: without those of the transfer.
    """

    def __init__(self, connection: PooledConnection, target: str, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self._timeout_seconds = connection.sock.gettimeout()
        try:
            connection.http.putrequest("POST", target, skip_accept_encoding=True)
            for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
                connection.http.putheader(name, value)
            connection.http.endheaders()
        except BaseException:
            connection.close()
            raise

    def answer_now(self) -> Response | None:
        """The broker's answer, if it has begun; does not wait for its beginning."""
        begun = self._connection.receive_now()
        if not begun:
            return None if begun is None else self._read_answer(begun)
        begun = _INTERIM.sub(b"", begun)
        return self._read_answer(begun) if begun else None

    def write(self, data: bytes) -> Response | None:
        """Send a part of the body. Returns the broker's answer if it comes first; the part may then be lost."""
        return self._send(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> Response:
        """Send the end of the body, and return the answer."""
        return self._send(b"0\r\n\r\n") or self._read_answer(b"")

    def _send(self, data: bytes) -> Response | None:
        left = memoryview(data)
        sock = self._connection.sock
        while True:
            response = self.answer_now()
            if response is not None or not left:
                return response
            wanted = selectors.EVENT_READ | selectors.EVENT_WRITE
            sock.settimeout(0)
            try:
                left = left[sock.send(left) :]
                continue
            except (BlockingIOError, ssl.SSLWantWriteError):
                """The peer takes no more for now."""
            except ssl.SSLWantReadError:
                wanted = selectors.EVENT_READ
            finally:
                sock.settimeout(self._timeout_seconds)
            self._wait(wanted)

    def _wait(self, events: int) -> None:
        with _Selector() as selector:
            selector.register(self._connection.sock, events)
            if not selector.select(self._timeout_seconds):
                raise TimeoutError

    def _read_answer(self, begun: bytes | None) -> Response:
        """The answer, of which `begun` has arrived; None is the peer's end."""
        replayed = cast("socket.socket", _Replayed(begun or b"", self._connection.sock))
        answer = FinalResponse(replayed, method="POST")
        try:
            answer.begin()
            data = answer.read(MAX_RESPONSE_BYTES)
            return Response(answer.status, answer.getheader("Retry-After"), data)
        finally:
            answer.close()

    def cut(self) -> None:
        """Leave without the end of the body. Returns when the broker has read all that was sent, or after `LEAVE_SECONDS`."""
        deadline = time.monotonic() + LEAVE_SECONDS
        sock = self._connection.sock
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                if not sock.recv(READ_BYTES):
                    break
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Replayed:
    """What `HTTPResponse` needs of a socket: a file, here with the bytes that were read before."""

    def __init__(self, begun: bytes, sock: socket.socket) -> None:
        self._begun = begun
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_ReplayedFile(self._begun, self._sock))


class _ReplayedFile(io.RawIOBase):
    def __init__(self, begun: bytes, sock: socket.socket) -> None:
        super().__init__()
        self._begun = begun
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not self._begun:
            return self._sock.recv_into(view)
        count = min(len(view), len(self._begun))
        view[:count] = self._begun[:count]
        self._begun = self._begun[count:]
        return count
