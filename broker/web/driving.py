"""Drives coroutines without a task as long as they don't wait."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from functools import partial
from types import coroutine as generator_based
from typing import Any, TypeVar

T = TypeVar("T")


def begin(running: Coroutine[Any, Any, T]) -> Awaitable[T] | None:
    """Run a coroutine until it waits for something. Returns its rest, for a task; None if it has ended."""
    try:
        waited = running.send(None)
    except StopIteration:
        return None
    return rest_of(running, waited)


@generator_based
def rest_of(running: Coroutine[Any, Any, T], waited: object) -> Generator[Any, Any, T]:
    """The rest of a coroutine that waits for `waited`, which its `send(None)` returned; for a task."""
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
                result: T = returned.value
                return result
    finally:
        waited = step = None  # an error that came this way refers to this frame
