"""Has the events of several sockets wait for a moment and share a wake-up of the loop.

A wake-up takes 10 to 15 µs, as much as three writes. From some thousands of them a second on, the loop doesn't watch the epoll any
more: a timer polls it every millisecond, until it finds too little. Network drivers do the same with interrupts (Linux: NAPI).

Rules: at a low rate no event waits. At a high one each waits for at most 2 ms, since event loops round the interval up to whole
milliseconds; a busy loop may take longer.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence

INTERVAL_SECONDS = 0.001
"""uvloop rounds to whole milliseconds, so this is its shortest."""
SAMPLE = 64
"""So many wake-ups, or polls of the timer, decide how it goes on: enough to distinguish a high rate from a burst."""
BUSY_SECONDS = SAMPLE / 3_200
"""The timer takes over if a sample of wake-ups took no longer."""
IDLE_EVENTS = 2 * SAMPLE
"""It ends if a sample of polls brought fewer: it hardly saves any wake-ups then."""

Serve = Callable[[Sequence[tuple[int, int]]], None]
"""Handles events: pairs of a descriptor and its `EPOLL…` bits. It must not raise."""


class CoalescingEpoll:
    """Has `serve` called with the events of `epoll`, at most `max_events` at once.

    Attributes:
        epoll: for sockets to be registered with.
        is_coalescing: whether the timer polls it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, serve: Serve, max_events: int) -> None:
        self.epoll = select.epoll()
        self.is_coalescing = False
        self._loop = loop
        self._serve = serve
        self._max_events = max_events
        self._timer: asyncio.Handle | None = None
        self._left = SAMPLE  # wake-ups or polls until the sample is complete
        self._events = 0  # of this sample of polls
        self._began_at = 0.0  # this sample of wake-ups; loop time
        loop.add_reader(self.epoll, self._wake)

    def close(self) -> None:
        """Release the epoll; nothing is served any more."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.is_coalescing:
            self._loop.remove_reader(self.epoll)
        self.epoll.close()

    def _wake(self) -> None:
        """The epoll has events."""
        self._left -= 1
        if not self._left:
            self._left = SAMPLE
            now = self._loop.time()
            if now - self._began_at <= BUSY_SECONDS:
                self._loop.remove_reader(self.epoll)
                self.is_coalescing, self._events = True, 0
                self._timer = self._loop.call_later(INTERVAL_SECONDS, self._poll)
            self._began_at = now
        self._serve(self.epoll.poll(0, self._max_events))

    def _poll(self) -> None:
        """The interval is over. The next one begins now: if it began after the serving, it would be longer."""
        ready = self.epoll.poll(0, self._max_events)
        self._left -= 1
        self._events += len(ready)
        if len(ready) == self._max_events:  # there may be more
            self._timer = self._loop.call_soon(self._poll)
        elif self._left > 0:
            self._timer = self._loop.call_later(INTERVAL_SECONDS, self._poll)
        elif self._events >= IDLE_EVENTS:
            self._left, self._events = SAMPLE, 0
            self._timer = self._loop.call_later(INTERVAL_SECONDS, self._poll)
        else:
            self._left, self._timer = SAMPLE, None
            self.is_coalescing, self._began_at = False, self._loop.time()
            self._loop.add_reader(self.epoll, self._wake)
        self._serve(ready)
