"""Does something to many subscribers at once: in slices, so that the loop still accepts and answers meanwhile.

Rules: to whom, and what, is said by whoever calls.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from broker.fanout.subscriber import Subscriber

SLICE_VISITS = 4000
SLICE_ACTS = 200  # a system call or two each: some 4 ms

_logger = logging.getLogger("broker")

Act = Callable[[Subscriber], None]

_Order = tuple[Iterator[Subscriber], Callable[[Subscriber], bool], Act, Callable[[], None]]


def _nothing() -> None:
    """Nobody waits for it."""


class BatchRunner:
    """See the module.

    Args:
        call_soon: schedules a callable for the loop's next turn.

    Attributes:
        failure: the last defect that was met.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.failure: Exception | None = None
        self._call_soon = call_soon
        self._orders: deque[_Order] = deque()

    def __len__(self) -> int:
        """How many orders are underway."""
        return len(self._orders)

    def order(
        self,
        subscribers: Iterable[Subscriber],
        concerns: Callable[[Subscriber], bool],
        act: Act,
        on_done: Callable[[], None] = _nothing,
    ) -> None:
        """Call `act` with each of `subscribers`, which doesn't change, whose stream is open then and whom it `concerns`.

        `on_done` is called after the last one.
        """
        self._orders.append((iter(subscribers), concerns, act, on_done))
        if len(self._orders) == 1:
            self._slice()

    def _slice(self) -> None:
        visits, acts = SLICE_VISITS, SLICE_ACTS
        while self._orders and visits and acts:
            subscribers, concerns, act, on_done = self._orders[0]
            subscriber = next(subscribers, None)
            if subscriber is None:
                self._orders.popleft()
                on_done()
                continue
            visits -= 1
            if subscriber.feed is not None and concerns(subscriber):
                acts -= 1
                self._act(act, subscriber)
        if self._orders:
            self._call_soon(self._slice)

    def _act(self, act: Act, subscriber: Subscriber) -> None:
        try:
            act(subscriber)
        except Exception as failure:  # a defect with one connection is not everybody's (I9)
            _logger.exception("a slice met a defect; this instance is not ready any more")
            self.failure = failure
