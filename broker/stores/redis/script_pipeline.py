"""Calls of scripts, in order, over one connection that is made again whenever it is lost (`connector`).

Rules: doesn't know the meaning of scripts. The calls of one loop turn leave in one write.

If a reply is lost with the connection, the call is made again on the next one, until its time is up. An argument
(`retry_at`) then makes the script look for the effect of the first attempt.

Pending calls are bounded in bytes (I4). An abandoned call counts until its reply arrives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from broker.errors import Unavailable
from broker.events import format_id
from broker.stores.redis.address import Address
from broker.stores.redis.connector import STOPPING, Connector, unavailable
from broker.stores.redis.formats import decode_id
from broker.stores.redis.link import CLUSTER, Argument, Link, Reply, ServerError, pack
from broker.stores.redis.scripts import Script
from broker.stores.redis.watermark import Watermark
from broker.stores.stats import CallMeasures

CALL_SECONDS = 4.5  # a publisher gets its answer within 5
REPLICAS_MS = 1000
REFUSAL_LOG_SECONDS = 10.0
MEMORY_FULL = "its memory is full; let it have more (its maxmemory; with --data, --log-memory-bytes), or keep fewer events"
"""For the operator."""
MAX_PENDING_BYTES = 64 << 20
CALL_BYTES = 1024
"""For a call, besides its arguments; roughly."""

_logger = logging.getLogger("broker")


@dataclass(slots=True, eq=False)
class Call:
    """A call of a script, or of a plain command if `script` is None.

    Attributes:
        began_at: when it was made; `time.monotonic`.
        retry_at: index in `args` of the argument for retries: "" at first, then an id before all ids of the first attempt.
        size: its bytes.
        reply: a write's, kept until the replicas have confirmed it.
    """

    script: Script | None
    keys: Sequence[Argument]
    args: list[Argument]
    future: asyncio.Future[Reply]
    retry_at: int | None
    is_write: bool
    size: int
    expiry: asyncio.TimerHandle = field(repr=False)
    began_at: float
    reply: Reply = None


@dataclass(slots=True, eq=False)
class _Wait:
    """A WAIT command for `calls`."""

    calls: Sequence[Call]


class LinkObserver(Protocol):
    """Sees each new connection before anything is called on it."""

    def connected(self, link: Link) -> None: ...


class ScriptPipeline:
    """Calls scripts in order.

    Args:
        seen: the highest id that the store has returned; sent with each call.
        measures: of the calls.
        wait_replicas: how many replicas must have a write before it is answered.
        key: one that scripts use; all lie in one slot.
    """

    def __init__(
        self,
        address: Address,
        seen: Watermark,
        measures: CallMeasures,
        *,
        margin_ms: int,
        topic_memory_ms: int,
        wait_replicas: int,
        observer: LinkObserver | None = None,
        key: str = "",
    ) -> None:
        self.answers = 0
        self.connector = Connector(address, self, key)
        self._seen = seen
        self._measures = measures
        self._margin_ms = margin_ms
        self._topic_memory_ms = topic_memory_ms
        self._wait_replicas = wait_replicas
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._unsent: dict[Call, None] = {}
        self._sent: deque[Call | _Wait] = deque()
        self.pending_bytes = 0  # of both: the calls that wait for a reply
        self._replied_at = 0.0
        self._refusals_logged: dict[str, float] = {}
        self._is_flush_scheduled = False

    # Calls

    def command(self, *args: Argument, seconds: float | None = None) -> Awaitable[Reply]:
        """The reply to a plain command, which may run twice. Raises `Unavailable`."""
        return self.call(None, (), args, seconds=seconds)

    def call(
        self,
        script: Script | None,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        *,
        retry_at: int | None = None,
        is_write: bool = False,
        seconds: float | None = None,
    ) -> Awaitable[Reply]:
        """The reply of a script, within `CALL_SECONDS` or the `seconds` given.

        Raises:
            Unavailable: no reply in time, or an error; the script may have run all the same.
        """
        size = CALL_BYTES
        for arg in args:
            if not isinstance(arg, int):
                size += len(arg)
        if self.pending_bytes + size > MAX_PENDING_BYTES:
            raise Unavailable("The store can't keep up; try again in a moment.", retry_after=2)
        future: asyncio.Future[Reply] = self._loop.create_future()
        expiry = self._loop.call_later(CALL_SECONDS if seconds is None else seconds, self._expire, future)
        call = Call(script, keys, list(args), future, retry_at, is_write, size, expiry, time.monotonic())
        future.add_done_callback(partial(self._call_done, call))
        self.pending_bytes += size
        self._unsent[call] = None
        if not self._is_flush_scheduled and self._link is not None:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _call_done(self, call: Call, future: asyncio.Future[Reply]) -> None:
        call.expiry.cancel()
        if future.cancelled() or future.exception() is not None:
            self._measures.failures.value += not future.cancelled()
        else:
            name = call.script.name if call.script else "command"
            self._measures.seconds.by[name].observe(time.monotonic() - call.began_at)
        if call in self._unsent:  # abandoned by its caller
            del self._unsent[call]
            self.pending_bytes -= call.size

    def _expire(self, future: asyncio.Future[Reply]) -> None:
        if not future.done():
            future.set_exception(unavailable(self.connector.problem or "it doesn't answer"))

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        if self._link is None or not self._unsent:
            return
        if not self._sent:
            self._replied_at = self._loop.time()
        calls, self._unsent = list(self._unsent), {}
        self._send(self._link, calls, by_text=False)

    def _send(self, link: Link, calls: Sequence[Call], *, by_text: bool) -> None:
        self._sent.extend(calls)
        seen = format_id(self._seen.value)
        common = (link.run_id, seen, self._margin_ms, self._topic_memory_ms)
        chunks = []
        for call in calls:
            chunks.append(_pack(call, common, by_text=by_text))
            call.reply = None
            if call.retry_at is not None and not call.args[call.retry_at]:
                call.args[call.retry_at] = seen  # for a retry
        writes = [call for call in calls if call.is_write] if self._wait_replicas else []
        if writes:
            self._sent.append(_Wait(writes))
            chunks.append(pack(("WAIT", self._wait_replicas, REPLICAS_MS)))
        link.write(b"".join(chunks))

    # For the connector: `LinkUser`

    def connected(self, link: Link) -> None:
        self._link = link
        self._replied_at = self._loop.time()
        if self._observer is not None:
            self._observer.connected(link)
        self._flush()

    def disconnected(self) -> bool:
        self._link = None
        is_in_doubt = bool(self._sent)
        unanswered = [sent for sent in self._sent if isinstance(sent, Call)]
        unconfirmed = [call for sent in self._sent if isinstance(sent, _Wait) for call in sent.calls]
        self._sent.clear()
        self.pending_bytes -= sum(call.size for call in unanswered)
        again = {call: None for call in (*unconfirmed, *unanswered) if not call.future.done()}
        self.pending_bytes += sum(call.size for call in again if call not in self._unsent)
        self._measures.retries.value += len(again)
        self._unsent = again | self._unsent
        return is_in_doubt

    def stopped(self) -> None:
        for call in self._unsent:
            if not call.future.done():
                call.future.set_exception(unavailable(STOPPING))

    def unanswered_seconds(self) -> float:
        return self._loop.time() - self._replied_at if self._sent else 0.0

    def receive(self, reply: Reply) -> None:
        self._replied_at = self._loop.time()
        sent = self._sent.popleft()
        if isinstance(sent, _Wait):
            self._confirm(sent, reply)
            return
        self.pending_bytes -= sent.size
        if isinstance(reply, ServerError):
            self._fail(sent, str(reply))
            return
        self.answers += 1
        if sent.script is not None:
            self._seen.raise_to(decode_id(reply[0]))
        if sent.is_write and self._wait_replicas:
            sent.reply = reply
        elif not sent.future.done():
            sent.future.set_result(reply)

    def _confirm(self, wait: _Wait, reply: Reply) -> None:
        if isinstance(reply, ServerError):
            self._log_refusal("WAIT", str(reply))
        is_enough = isinstance(reply, int) and reply >= self._wait_replicas
        for call in wait.calls:
            if call.future.done() or call.reply is None:  # None: it was sent again, with a WAIT of its own
                continue
            if is_enough:
                call.future.set_result(call.reply)
            else:
                call.future.set_exception(unavailable(f"fewer than {self._wait_replicas} replicas have it"))

    def _fail(self, call: Call, text: str) -> None:
        if call.future.done():
            return
        code = text.partition(" ")[0]
        assert self._link is not None
        if code == "NOSCRIPT":
            self.pending_bytes += call.size
            self._send(self._link, [call], by_text=True)
        elif code in _TRANSIENT or code in _ELSEWHERE or "READONLY" in text:
            self.pending_bytes += call.size
            self._unsent[call] = None
            self._measures.retries.value += 1
            if code in _ELSEWHERE:
                self._link.abort(f"{CLUSTER} ({text})", CLUSTER)
            else:
                self._link.abort(text, f"the server answers {code}")  # another one may have taken over
        else:
            is_full = "OOM" in text
            what = call.script.name if call.script else str(call.args[0])
            self._log_refusal(what, MEMORY_FULL if is_full else text)
            call.future.set_exception(
                unavailable("its memory is full" if is_full else "it refuses this call")
            )

    def _log_refusal(self, what: str, text: str) -> None:
        """Log an error, but not each time: a full store refuses every publish."""
        now = self._loop.time()
        if now - self._refusals_logged.get(what, -REFUSAL_LOG_SECONDS) >= REFUSAL_LOG_SECONDS:
            self._refusals_logged[what] = now
            _logger.error("the store refuses %s: %s", what, text)


_TRANSIENT = {"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED"}
"""Errors of a server that needs time, or was replaced."""
_ELSEWHERE = {"MOVED", "ASK"}
"""Errors of a cluster's node: another one has the slot."""


def _pack(call: Call, common: tuple[Argument, ...], *, by_text: bool) -> bytes:
    script = call.script
    if script is None:
        return pack(tuple(call.args))
    command = ("EVAL", script.text) if by_text else ("EVALSHA", script.sha)
    return pack((*command, len(call.keys), *call.keys, *common, *call.args))
