"""Questions to all instances, this one included, for facts that no store holds: subscribers, producers and rates.

Rules: a question and its answers travel as broadcasts (`commands`). An answer is a JSON value of bounded size. An instance that
doesn't answer in time is left out. At most `MAX_OPEN` questions are open, and as many are answered, at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence

from broker.errors import Overloaded, Unavailable
from broker.node.commands import Answer, Ask, encode
from broker.stores.base import Broadcast

SECONDS = 1.0
"""How long an asker waits."""
MAX_OPEN = 16
RETRY_AFTER_SECONDS = 2

Answerer = Callable[[Mapping[str, object]], Awaitable[object]]
"""Answers one kind of question, from its arguments."""


class _Awaited:
    """The answers to an open question.

    Attributes:
        complete: done when all are there.
    """

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected: int | None = None  # an answer may come before the number of instances does

    def expect(self, number: int) -> None:
        self._expected = number
        self._check()

    def add(self, answer: object) -> None:
        self.answers.append(answer)
        self._check()

    def _check(self) -> None:
        if self._expected is not None and len(self.answers) >= self._expected and not self.complete.done():
            self.complete.set_result(None)


class Questions:
    """Asks all instances, and answers for this one.

    Attributes:
        answerers: by the kind of question.
    """

    def __init__(self, broadcast: Broadcast) -> None:
        self.answerers: dict[str, Answerer] = {}
        self._broadcast = broadcast
        self._open: dict[str, _Awaited] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def ask(self, kind: str, **about: object) -> Sequence[object]:
        """The answers of the instances that answer within a second.

        Raises:
            Overloaded: too many questions are open.
            Unavailable: the store can't carry the question.
        """
        if len(self._open) >= MAX_OPEN:
            raise Overloaded("Too many questions to all instances at once.", retry_after=RETRY_AFTER_SECONDS)
        question, awaited = secrets.token_hex(8), _Awaited()
        self._open[question] = awaited
        try:
            awaited.expect(await self._broadcast.send(encode(Ask(question, kind, about))))
            await asyncio.wait([awaited.complete], timeout=SECONDS)
        finally:
            del self._open[question]
        return awaited.answers

    def asked(self, ask: Ask) -> None:
        """An instance, perhaps this one, asks."""
        if ask.kind in self.answerers and len(self._answering) < MAX_OPEN:
            task = asyncio.create_task(self._answer(ask), name="broker answer")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def answered(self, answer: Answer) -> None:
        """An instance has answered a question, perhaps one of ours."""
        awaited = self._open.get(answer.question)
        if awaited is not None:
            awaited.add(answer.value)

    async def _answer(self, ask: Ask) -> None:
        value = await self.answerers[ask.kind](ask.about)
        with contextlib.suppress(Unavailable):  # the asker's time runs out
            await self._broadcast.send(encode(Answer(ask.question, value)))

    async def stop(self) -> None:
        """Answer no more."""
        self.answerers.clear()
        for task in self._answering:
            task.cancel()
        if self._answering:
            await asyncio.wait(self._answering)
