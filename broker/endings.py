"""Ends many streams of this instance at once: in slices, so that the loop still accepts and answers meanwhile.

Rules: who is to go is said by whoever calls, what each hears last is the node's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from broker.subscriber import Subscriber

SLICE_VISITS = 4000
SLICE_ENDS = 200  # two system calls each: some 4 ms

End = Callable[[Subscriber], None]


class Endings:
    """See the module.

    Args:
        call_soon: schedules a callable for the loop's next turn.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._orders: deque[tuple[Iterator[Subscriber], Callable[[Subscriber], bool], End]] = deque()

    def order(
        self, subscribers: Iterable[Subscriber], concerns: Callable[[Subscriber], bool], end: End
    ) -> None:
        """Call `end` with each of `subscribers`, which doesn't change, whose stream is open then and whom it `concerns`."""
        self._orders.append((iter(subscribers), concerns, end))
        if len(self._orders) == 1:
            self._slice()

    def _slice(self) -> None:
        visits, ends = SLICE_VISITS, SLICE_ENDS
        while self._orders and visits and ends:
            subscribers, concerns, end = self._orders[0]
            subscriber = next(subscribers, None)
            if subscriber is None:
                self._orders.popleft()
                continue
            visits -= 1
            if subscriber.feed is not None and concerns(subscriber):
                ends -= 1
                end(subscriber)
        if self._orders:
            self._call_soon(self._slice)
