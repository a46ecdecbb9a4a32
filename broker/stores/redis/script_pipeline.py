"""Calls of scripts, in order, over one connection that is made again whenever it is lost.

Rules: knows scripts, replies and time; not what a script means. What is called in one turn of the loop leaves in one write.

A call whose answer was lost with the connection is made again on the next one, until its time is up: a script is told so
(`Call.retry_at`) and looks for what the first try did. Before that the old connection is ended on the server, lest what it
still holds be done after the retry (a server that was stopped for a while reads on where it was).

What is held is bounded in bytes, also of calls that nobody waits for any more: they are counted until they are answered.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.errors import Unavailable
from broker.events import EventId, format_id
from broker.stores.redis.address import Address
from broker.stores.redis.link import Argument, Link, LinkLost, Refused, Reply, ServerError, open_link, pack
from broker.stores.redis.messages import to_id
from broker.stores.redis.scripts import Script

CALL_SECONDS = 4.5  # a publisher is answered within 5
SILENCE_SECONDS = 2.0  # without any answer, while one is due, the connection is given up
LOOK_SECONDS = 0.25
REPLICAS_MS = 1000
BACKOFF_SECONDS = (0.02, 0.05, 0.1, 0.25, 0.5)
REFUSALS_SECONDS = 10.0  # how often the same one is logged
STOPPING = "this instance is stopping"
MAX_QUEUED_BYTES = 64 << 20

_logger = logging.getLogger("broker")


@dataclass(slots=True, eq=False)
class Call:
    """One call, or one plain command where `script` is None.

    Attributes:
        retry_at: index in `args` of where a retry says which ids its first try can only have brought later ones than.
        is_write: whether it counts only when the replicas asked for have it.
        answer: what came on the present connection, and is due once the replicas have it.
    """

    script: Script | None
    keys: Sequence[Argument]
    args: list[Argument]
    future: asyncio.Future[Reply]
    retry_at: int | None = None
    is_write: bool = False
    size: int = 0
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)
    answer: Reply = None


@dataclass(slots=True, eq=False)
class _Replicas:
    """What is due behind `calls`: how many replicas have them."""

    calls: Sequence[Call]


class Seen:
    """The highest id seen come out of the store, on whichever connection."""

    def __init__(self) -> None:
        self.value: EventId = 0

    def note(self, last: EventId) -> None:
        """An id has come out of the store."""
        if last > self.value:
            self.value = last


class ScriptPipeline:
    """See the module.

    Args:
        seen: told to each script, and learned from its answer.
        margin_ms, topic_memory_ms: told to each script.
        wait_replicas: how many replicas must have what was written before it is answered.
        on_link: called with each new connection, before anything is called on it.

    Attributes:
        problem: why there is no connection; "" while there is one.
        refused: whether that is because the server lets nobody in.
        connections: how many there have been.
    """

    def __init__(
        self,
        address: Address,
        seen: Seen,
        *,
        margin_ms: int,
        topic_memory_ms: int,
        wait_replicas: int,
        on_link: Callable[[Link], None],
    ) -> None:
        self.problem = "not connected yet"
        self.refused = False
        self.connections = 0
        self._address = address
        self._seen = seen
        self._margin_ms = margin_ms
        self._topic_memory_ms = topic_memory_ms
        self._wait_replicas = wait_replicas
        self._on_link = on_link
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._before: tuple[str, int] | None = None
        self._is_in_doubt = False  # whether that connection was lost with calls on it
        self._waiting: dict[Call, None] = {}
        self._sent: deque[Call | _Replicas] = deque()
        self._queued_bytes = 0  # of both
        self._failures = 0  # in a row, to make a connection that is of use
        self._refusals: dict[str, float] = {}
        self._scheduled = False
        self._heard_at = 0.0
        self._tried = asyncio.Event()  # set while there is a connection, or `refused`

    # Calling

    async def call(
        self,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        *,
        retry_at: int | None = None,
        is_write: bool = False,
        seconds: float = CALL_SECONDS,
    ) -> Reply:
        """The answer of a script.

        Raises:
            Unavailable: there was none in time, or the server refused; what it was to do may be done all the same.
        """
        return await self._do(script, keys, args, retry_at, seconds, is_write=is_write)

    async def command(self, *args: Argument, seconds: float = CALL_SECONDS) -> Reply:
        """The answer to a plain command that may be done twice. Raises as `call` does."""
        return await self._do(None, (), args, None, seconds)

    def _do(
        self,
        script: Script | None,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        retry_at: int | None,
        seconds: float,
        *,
        is_write: bool = False,
    ) -> asyncio.Future[Reply]:
        size = sum(len(arg) for arg in args if not isinstance(arg, int))
        if self._queued_bytes + size > MAX_QUEUED_BYTES:
            raise Unavailable("The store can't keep up; try again in a moment.", retry_after=2)
        call = Call(script, keys, list(args), self._loop.create_future(), retry_at, is_write, size)
        self._queued_bytes += size
        call.expiry = self._loop.call_later(seconds, self._expire, call)
        call.future.add_done_callback(lambda _future: self._settled(call))
        self._waiting[call] = None
        self._schedule()
        return call.future

    def _settled(self, call: Call) -> None:
        if call.expiry is not None:
            call.expiry.cancel()
        if call in self._waiting:  # nobody waits for it; what was sent is there until its answer comes
            del self._waiting[call]
            self._queued_bytes -= call.size

    def _expire(self, call: Call) -> None:
        if not call.future.done():
            call.future.set_exception(_unavailable(self.problem or "it doesn't answer"))

    def _schedule(self) -> None:
        if not self._scheduled and self._link is not None:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send all that waits, in one write."""
        self._scheduled = False
        if self._link is None or not self._waiting:
            return
        if not self._sent:
            self._heard_at = self._loop.time()
        calls = list(self._waiting)
        self._waiting.clear()
        self._send(self._link, calls, by_text=False)

    def _send(self, link: Link, calls: Sequence[Call], *, by_text: bool) -> None:
        """Send `calls`, and ask how many replicas have those that write."""
        self._sent.extend(calls)
        chunks = [self._packed(link, call, by_text=by_text) for call in calls]
        writes = [call for call in calls if call.is_write] if self._wait_replicas else []
        if writes:
            self._sent.append(_Replicas(writes))
            chunks.append(pack(("WAIT", self._wait_replicas, REPLICAS_MS)))
        link.write(b"".join(chunks))

    def _packed(self, link: Link, call: Call, *, by_text: bool) -> bytes:
        script = call.script
        call.answer = None
        if script is None:
            return pack(tuple(call.args))
        how = ("EVAL", script.text) if by_text else ("EVALSHA", script.sha)
        seen = format_id(self._seen.value)
        common = (link.run_id, seen, self._margin_ms, self._topic_memory_ms)
        packed = pack((*how, len(call.keys), *call.keys, *common, *call.args))
        if call.retry_at is not None and not call.args[call.retry_at]:
            call.args[call.retry_at] = seen  # should it come to a retry
        return packed

    # Answers

    def _answered(self, reply: Reply) -> None:
        self._heard_at = self._loop.time()
        what = self._sent.popleft()
        if isinstance(what, _Replicas):
            self._replicated(what, reply)
            return
        self._queued_bytes -= what.size
        if isinstance(reply, ServerError):
            self._failed(what, str(reply))
        else:
            self._failures = 0
            answer = reply if what.script is None else self._noted(reply)
            if what.is_write and self._wait_replicas:
                what.answer = answer
            elif not what.future.done():
                what.future.set_result(answer)

    def _noted(self, reply: Sequence[Reply]) -> Sequence[Reply]:
        self._seen.note(to_id(reply[0]))
        return reply

    def _replicated(self, what: _Replicas, reply: Reply) -> None:
        if isinstance(reply, ServerError):
            self._log_refusal("WAIT", str(reply))
        enough = isinstance(reply, int) and reply >= self._wait_replicas
        for call in what.calls:
            if call.future.done() or call.answer is None:  # which was sent again since (`NOSCRIPT`)
                continue
            if enough:
                call.future.set_result(call.answer)
            else:
                call.future.set_exception(_unavailable(f"fewer than {self._wait_replicas} replicas have it"))

    def _failed(self, call: Call, text: str) -> None:
        if call.future.done():
            return
        word = text.partition(" ")[0]
        assert self._link is not None
        if word == "NOSCRIPT":
            self._queued_bytes += call.size
            self._send(self._link, [call], by_text=True)
        elif word in _PASSING or "READONLY" in text:
            self._queued_bytes += call.size
            self._waiting[call] = None
            self._link.abort(text)  # perhaps another server has taken over
        else:
            self._log_refusal(call.script.name if call.script else str(call.args[0]), text)
            full = "OOM" in text
            call.future.set_exception(_unavailable("its memory is full" if full else "it refuses this call"))

    def _log_refusal(self, what: str, text: str) -> None:
        """Say it, but not each time: a store that is full refuses every publish."""
        now = self._loop.time()
        if now - self._refusals.get(what, -REFUSALS_SECONDS) >= REFUSALS_SECONDS:
            self._refusals[what] = now
            _logger.error("the store refuses %s: %s", what, text)

    # The connection

    async def wait_connected(self) -> None:
        """Return while there is a connection. Raises `Unavailable` where the server lets nobody in."""
        await self._tried.wait()
        if self.refused:
            raise _unavailable(self.problem)

    async def run(self) -> None:
        """Keep a connection, for ever; the one who runs it cancels it."""
        try:
            while True:
                try:
                    await self._use(await open_link(self._address))
                except LinkLost as error:
                    self._lost(error)
                await asyncio.sleep(backoff(self._failures))
                self._failures += 1
        finally:
            self.problem = STOPPING
            self._lost(LinkLost(STOPPING))
            for call in list(self._waiting):
                if not call.future.done():
                    call.future.set_exception(_unavailable(STOPPING))

    async def _use(self, link: Link) -> None:
        """Until it is lost."""
        try:
            await self._fence(link)
            self._link = link
            self._heard_at = self._loop.time()
            self.problem, self.refused = "", False
            self.connections += 1
            self._on_link(link)
            self._tried.set()
            self._flush()
            look = self._loop.create_task(self._look_for_silence(link), name="broker store silence")
            try:
                await link.read(self._answered)
            finally:
                look.cancel()
        finally:
            await link.close()

    async def _fence(self, link: Link) -> None:
        """End the connection before this one on the server, if it may still hold calls."""
        replies: list[Reply] = []
        if self._is_in_doubt and self._before is not None and self._before[0] == link.run_id:
            link.write(pack(("CLIENT", "KILL", "ID", self._before[1])))
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await link.read(lambda reply: _first(replies, reply))
            except _Enough:
                pass
            except TimeoutError:
                raise LinkLost("the server doesn't answer") from None
        self._before, self._is_in_doubt = (link.run_id, link.client_id), False
        if replies and isinstance(replies[0], ServerError) and "No such client" not in str(replies[0]):
            _logger.warning("the store doesn't let us end our own old connection: %s", replies[0])

    async def _look_for_silence(self, link: Link) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._sent and self._loop.time() - self._heard_at > SILENCE_SECONDS:
                link.abort("the server doesn't answer")

    def _lost(self, error: LinkLost) -> None:
        is_told = isinstance(error, Refused) and self._before is None  # by who waits for the first connection
        if str(error) != self.problem and not is_told:
            _logger.warning("the store at %s: %s", self._address.shown, error)
        self.problem, self.refused = str(error), isinstance(error, Refused)
        self._link = None
        if self.refused:
            self._tried.set()
        else:
            self._tried.clear()
        self._is_in_doubt = self._is_in_doubt or bool(self._sent)
        unanswered = [what for what in self._sent if isinstance(what, Call)]
        held_back = [call for what in self._sent if isinstance(what, _Replicas) for call in what.calls]
        self._sent.clear()
        self._queued_bytes -= sum(call.size for call in unanswered)
        again = {call: None for call in (*held_back, *unanswered) if not call.future.done()}
        self._queued_bytes += sum(call.size for call in again if call not in self._waiting)
        self._waiting = again | self._waiting


_PASSING = {"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED"}


class _Enough(Exception):
    """The reply that was waited for is here."""


def _first(replies: list[Reply], reply: Reply) -> None:
    replies.append(reply)
    raise _Enough


def backoff(failures: int) -> float:
    """Seconds to the next try, random so that instances don't come together."""
    longest = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
    return longest * random.uniform(0.5, 1)


def _unavailable(why: str) -> Unavailable:
    return Unavailable(f"The store can't be used now: {why}. Try again in a moment.", retry_after=1)
