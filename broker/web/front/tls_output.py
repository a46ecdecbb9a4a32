"""The sending half of a TLS connection: a record is encrypted once the socket has room for it.

Until then data waits as it was given, so that thousands of connections share the bytes of an event (I4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl

from broker.fanout.unsent import Data, Unsent

RECORD_BYTES = 16 << 10
"""The most that one record carries (RFC 8446 §5.1)."""

_logger = logging.getLogger("broker")


class TlsOutput:
    """Sends through `raw` what `tls` encrypts into `outgoing`. If that fails, it aborts `raw`."""

    __slots__ = ("_outgoing", "_raw", "_tls", "_unsent")

    def __init__(self, raw: asyncio.Transport, tls: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        self._raw = raw
        self._tls = tls
        self._outgoing = outgoing
        self._unsent: Unsent | None = None  # not encrypted yet

    @property
    def size(self) -> int:
        """How many bytes are not encrypted yet."""
        return 0 if self._unsent is None else self._unsent.size

    def write(self, data: Data) -> None:
        """Send `data`, which is not empty, behind all that was written before."""
        if self._unsent is not None:
            self._unsent.add(data)
        elif len(data) <= RECORD_BYTES:
            self._encrypt(data)
        else:
            self._unsent = Unsent(data, 0)
            self.send_on()

    def send_on(self) -> None:
        """Send the waiting bytes until the socket is full.

        It is a record at a time, which OpenSSL takes whole: it keeps as much memory as it has needed once.
        """
        unsent = self._unsent
        if unsent is None:
            return
        while unsent.size and not (self._raw.get_write_buffer_size() or self._raw.is_closing()):
            record = unsent.next(RECORD_BYTES)
            unsent.sent(len(record))
            self._encrypt(record)
        if not unsent.size:
            self._unsent = None

    def end(self) -> None:
        """Send the notice of the end, once nothing waits."""
        with contextlib.suppress(ssl.SSLError):  # the client's own notice is still to come
            self._tls.unwrap()
        self.flush()

    def drop(self) -> None:
        """Send nothing more."""
        self._unsent = None

    def flush(self) -> None:
        """Send the records that OpenSSL has made."""
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _encrypt(self, data: Data) -> None:
        """Send `data`, at most a record."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            _logger.debug("a TLS connection failed: %s", error)
            self._raw.abort()
        else:
            self.flush()
