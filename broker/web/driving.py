"""Drives coroutines without a task as long as they don't wait."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from functools import partial
from types import coroutine as generator_based
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Steps(Protocol):
    """What is driven: a coroutine, or what stands for one. `StopIteration` ends it, with its result."""

    def send(self, value: Any, /) -> object: ...

    def throw(self, error: BaseException, /) -> object: ...


def begin(running: Coroutine[Any, Any, T]) -> Awaitable[T] | None:
    """Run a coroutine until it waits for something. Returns its rest, for a task; None if it has ended."""
    try:
        waited = running.send(None)
    except StopIteration:
        return None
    return rest_of(running, waited)


@generator_based
def rest_of(running: Steps, waited: object) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that waits for `waited`, which its `send(None)` returned; for a task. Returns its result."""
    step: partial[object] | None = None
    try:
        while True:
            try:
                sent = yield waited
            except BaseException as error:  # above all the task's cancellation
                step = partial(running.throw, error)
            else:
                step = partial(running.send, sent)
            try:
                waited = step()
            except StopIteration as returned:
                return returned.value
    finally:
        waited = step = None  # an error that came this way refers to this frame


async def finish(running: Steps, waited: object) -> Any:
    """The same as a coroutine: once this module is compiled, interpreted code can't await `rest_of` itself."""
    return await rest_of(running, waited)
