"""The subscribers and producers of a topic, over all instances.

Rules: an instance answers with a bounded number of each, and with their total.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from broker.fanout.feed_table import FeedTable
from broker.fanout.subscriber import Subscriber
from broker.log.timeline import Timeline
from broker.node.questions import Questions

MAX_SHOWN = 100
"""Maximum number of subscribers that are shown, and of producers."""
QUESTION = "readers"

Figures = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TopicUse:
    """The subscribers and producers of a topic.

    Attributes:
        subscribers, producers: how many there are.
        shown_subscribers, shown_producers: at most `MAX_SHOWN` of them; JSON objects.
    """

    subscribers: int
    shown_subscribers: Sequence[Figures]
    producers: int
    shown_producers: Sequence[Figures]


class TopicDetails:
    """Asks all instances for the subscribers and producers of a topic, and answers for this one.

    Attributes:
        producers_of: the open streamed bodies of a topic here; JSON objects.
    """

    def __init__(self, feeds: FeedTable, timeline: Timeline, questions: Questions) -> None:
        self.producers_of: Callable[[str], Sequence[Figures]] = _no_producers
        self._feeds = feeds
        self._timeline = timeline
        self._questions = questions
        questions.answerers[QUESTION] = self._answer

    async def use_of(self, topic: str) -> TopicUse:
        """The subscribers and producers of `topic`. Raises as `Questions.ask`."""
        answers = cast("Sequence[Mapping[str, object]]", await self._questions.ask(QUESTION, topic=topic))
        total = {"subscribers": 0, "producers": 0}
        shown: dict[str, list[Figures]] = {"subscribers": [], "producers": []}
        for answer in answers:
            for kind in total:
                total[kind] += int(cast("int", answer[kind]))
                shown[kind] += cast("Sequence[Figures]", answer[f"shown_{kind}"])
        return TopicUse(
            total["subscribers"],
            shown["subscribers"][:MAX_SHOWN],
            total["producers"],
            shown["producers"][:MAX_SHOWN],
        )

    async def _answer(self, about: Mapping[str, object]) -> object:
        topic = str(about.get("topic"))
        now = asyncio.get_running_loop().time()
        producers = self.producers_of(topic)
        shown = self._feeds.some_subscribers_of(topic, MAX_SHOWN)
        return {
            "subscribers": self._feeds.count(topic),
            "shown_subscribers": [self._figures(subscriber, now) for subscriber in shown],
            "producers": len(producers),
            "shown_producers": producers[:MAX_SHOWN],
        }

    def _figures(self, subscriber: Subscriber, now: float) -> Figures:
        """A subscriber as JSON; `age` and `behind` are in seconds."""
        return {
            "address": subscriber.peer,
            "subject": subscriber.caller.grant.subject,
            "age": round(now - subscriber.opened_at, 1),
            "events": subscriber.events,
            "bytes": subscriber.bytes_written,
            "start": subscriber.origin.start,
            "behind": self._behind(subscriber),
        }

    def _behind(self, subscriber: Subscriber) -> float:
        """How much older its cursor is than the newest event of its topics; 0 unless it lags."""
        if subscriber.lag is None or subscriber.feed is None:
            return 0.0
        newest = max(log.last for log in subscriber.feed.logs)
        seconds = self._timeline.seconds
        return round(max(0.0, seconds(newest) - seconds(subscriber.cursor)), 1)


def _no_producers(_topic: str) -> Sequence[Figures]:
    """This instance has no streamed bodies."""
    return ()
