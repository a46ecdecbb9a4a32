"""When the streams end that somebody's token let in: a little before the token's own time, each at another moment.

Rules: never after it. Whoever logs in at nine with a token for an hour would else be back at ten sharp, with everybody.
The time is that of a clock which may be set; so it is looked at about once a second, and a timer is for the rest of one.
"""

from __future__ import annotations

import itertools
import random
from asyncio import TimerHandle
from collections.abc import Callable, Sequence

from sortedcontainers import SortedDict

from broker.events import Clock
from broker.subscriber import Subscriber

EARLY = (0.01, 0.1)
"""What part of the time that is left a stream may end before it is over."""
EARLY_MOST_SECONDS = 10.0
LOOK_SECONDS = 1.0
LEAST_WAIT_SECONDS = 0.01

CallLater = Callable[[float, Callable[[], None]], TimerHandle]

_Key = tuple[float, int]


class Expiries:
    """See the module.

    Args:
        clock: seconds since 1970.
        call_later: schedules a callable, in seconds from now.
        on_expired: called with those whose time has come.
    """

    def __init__(
        self,
        clock: Clock,
        call_later: CallLater,
        on_expired: Callable[[Sequence[Subscriber]], None],
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._on_expired = on_expired
        self._due: SortedDict[_Key, Subscriber] = SortedDict()
        self._keys: dict[Subscriber, _Key] = {}
        self._numbers = itertools.count()
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, subscriber: Subscriber, until: float) -> None:
        """End its stream before `until`, seconds since 1970."""
        left = max(0.0, until - self._clock())
        early = min(left * random.uniform(*EARLY), random.uniform(0.0, EARLY_MOST_SECONDS))
        key = (until - early, next(self._numbers))
        self._keys[subscriber] = key
        self._due[key] = subscriber
        if self._due.keys()[0] == key:
            self._arm()

    def remove(self, subscriber: Subscriber) -> None:
        """It has ended, for whatever reason."""
        key = self._keys.pop(subscriber, None)
        if key is not None:
            self._due.pop(key, None)

    def look(self) -> None:
        """Tell of those whose time has come; to be called about once a second."""
        now = self._clock()
        expired = []
        while self._due and self._due.keys()[0][0] <= now:
            _, subscriber = self._due.popitem(0)
            del self._keys[subscriber]
            expired.append(subscriber)
        if expired:
            self._on_expired(expired)
        self._arm()

    def _arm(self) -> None:
        self.stop()
        wait = self._due.keys()[0][0] - self._clock() if self._due else LOOK_SECONDS
        if wait < LOOK_SECONDS:
            self._timer = self._call_later(max(wait, LEAST_WAIT_SECONDS), self.look)

    def stop(self) -> None:
        """Look no more, but where asked to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
