"""Commands to all instances of the store, this one included: sends them, and carries out those that arrive.

Rules: the meaning of a command is here; the store carries it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from broker import sse
from broker.events import Clock
from broker.fanout.batches import Job
from broker.fanout.hub import Hub
from broker.fanout.subscriber import Subscriber
from broker.metrics import Metrics
from broker.node.commands import Answer, Ask, Cancel, Disconnect, Revoke, ShowStats, decode, encode, kind_of
from broker.node.questions import Questions
from broker.node.streams import Streams
from broker.reports import escape
from broker.stores.base import Broadcast

CANCEL_SECONDS = 10.0
"""How long a cancel is kept for instances that can't be reached."""
MAX_UNKNOWN_KINDS = 32
"""Unknown kinds of commands that are reported."""

_logger = logging.getLogger("broker")


class Instances:
    """Sends commands through `broadcast`, and applies those that arrive to `streams`.

    Args:
        clock: seconds since 1970.
        revocation_seconds: how long a revocation without `until` is kept.

    Attributes:
        on_cancel: called with the topic of a cancel.
        on_show_stats: called when a client of any instance reads `_stats`.
        questions: asks all instances.
    """

    def __init__(
        self,
        broadcast: Broadcast,
        streams: Streams,
        metrics: Metrics,
        clock: Clock,
        revocation_seconds: float,
    ) -> None:
        self.on_cancel: Callable[[str], None] = _no_producers
        self.on_show_stats: Callable[[], None] = _nobody_shows
        self.questions = Questions(broadcast)
        self._broadcast = broadcast
        self._streams = streams
        self._metrics = metrics
        self._clock = clock
        self._revocation_seconds = revocation_seconds
        self._unknown_kinds: set[str] = set()  # that were reported
        self._cancelling: dict[str, asyncio.Event] = {}  # by topic with a `_SendCancel` under way: it is done

    async def disconnect(self, *, subject: str | None = None, topic: str | None = None) -> None:
        """End the streams of `subject`, or of `topic`. Raises `Unavailable`."""
        await self._broadcast.send(encode(Disconnect(self._clock(), subject, topic)))

    async def revoke(
        self, *, token_id: str | None = None, subject: str | None = None, until: float | None = None
    ) -> None:
        """Refuse the token, or all tokens that `subject` got so far, and end their streams.

        The revocation may be forgotten at `until` (seconds since 1970); None stands for `revocation_seconds` from now.

        Raises:
            RateLimited: the limit of revocations is reached.
            Unavailable: some instances may not get it.
        """
        self._streams.evictions.revocations.check_room(token_id or subject or "")
        now = self._clock()
        until = now + self._revocation_seconds if until is None else until
        await self._broadcast.send(encode(Revoke(now, until, token_id, subject)), until)

    async def cancel(self, topic: str) -> None:
        """Ask the producer that streams to `topic` to stop; subscribers get `broker.cancel`. Raises `Unavailable`."""
        now = self._clock()
        await self._broadcast.send(encode(Cancel(topic, now)), now + CANCEL_SECONDS, droppable=True)
        self._metrics.cancels.value += 1

    async def show_stats(self) -> None:
        """Ask all instances to publish their figures for a while. Raises `Unavailable`."""
        await self._broadcast.send(encode(ShowStats(self._clock())))

    async def cancel_written(self, topic: str) -> None:
        """Wait until the subscribers that `topic` has here have got `broker.cancel`, if a cancel is under way."""
        done = self._cancelling.get(topic)
        if done is not None:
            await done.wait()

    def carry_out(self, text: str) -> None:
        """Do what an instance, perhaps this one, has sent to all."""
        match decode(text):
            case Disconnect() as command:
                self._streams.evictions.disconnect(command)
            case Revoke() as command:
                self._streams.evictions.revoke(command)
            case Cancel(topic=topic):
                self._cancel(topic)
            case ShowStats():
                self.on_show_stats()
            case Ask() as ask:
                self.questions.asked(ask)
            case Answer() as answer:
                self.questions.answered(answer)
            case _:
                self._report_unknown(text)

    def _report_unknown(self, text: str) -> None:
        """Warn of the first command of its kind: a newer instance may send it every few seconds."""
        kind = kind_of(text)
        if kind not in self._unknown_kinds and len(self._unknown_kinds) < MAX_UNKNOWN_KINDS:
            self._unknown_kinds.add(kind)
            _logger.warning(
                "ignored an unknown command from an instance of another version, as all others of its kind: %.100s",
                escape(text),
            )

    def _cancel(self, topic: str) -> None:
        """Stop the producer, and write `broker.cancel` to the subscribers; another cancel meanwhile writes nothing (I4)."""
        self.on_cancel(topic)
        if topic not in self._cancelling:
            self._cancelling[topic] = asyncio.Event()
            hub = self._streams.hub
            self._streams.batches.run(
                _SendCancel(topic, hub, self._cancelling), hub.feeds.subscribers_of(topic)
            )


class _SendCancel(Job):
    """Writes `broker.cancel` to the subscribers of a topic, which is in `cancelling` meanwhile."""

    def __init__(self, topic: str, hub: Hub, cancelling: dict[str, asyncio.Event]) -> None:
        self._topic = topic
        self._hub = hub
        self._cancelling = cancelling
        self._event = sse.control("broker.cancel", {"topic": topic})

    def concerns(self, subscriber: Subscriber) -> bool:
        return subscriber.reads(self._topic)

    def act(self, subscriber: Subscriber) -> None:
        self._hub.send_control(subscriber, self._event)

    def done(self) -> None:
        self._cancelling.pop(self._topic).set()


def _nobody_shows() -> None:
    """This instance has not started."""


def _no_producers(_topic: str) -> None:
    """This instance has no streamed bodies."""
