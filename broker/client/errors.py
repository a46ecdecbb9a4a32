"""What can go wrong for a client, and the reading of the broker's problems (contract §5)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

UNREACHABLE = "unreachable"
UNEXPECTED = "unexpected"

MAX_ANSWER_BYTES = 64 << 10
"""More than any answer of the broker that is no stream."""

_PASSING = frozenset({408, 425, 429})

_SomeError = TypeVar("_SomeError", bound="ClientError")


class ClientError(Exception):
    """Base of what this package raises; a wrong argument is a `ValueError`, as everywhere.

    Attributes:
        code: the problem's code; `unreachable` where no answer came, `unexpected` for an answer that is none of the broker's.
        detail: what is wrong and what to do about it, in the broker's words where it had some.
        status: the HTTP status, or None.
        retry_after: seconds after which the broker asks to try again, or None.
        extra: further members of the problem, such as `line` and `published`.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after = retry_after
        self.extra = dict(extra or {})

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code == UNREACHABLE or is_passing(self.status or 0)


class PublishError(ClientError):
    """An event was not published, or, where the code is `unreachable`, nobody knows whether it was."""


class Cancelled(PublishError):
    """Somebody asked the producer of a stream to stop; what was sent before stands."""


class SubscribeError(ClientError):
    """A subscription that can't be had, now or later."""


def is_passing(status: int) -> bool:
    """Whether an answer with `status` may be another one later: an overload, a restart, a proxy in between."""
    return status >= 500 or status in _PASSING


def problem(kind: type[_SomeError], status: int, retry_after: str | None, body: bytes) -> _SomeError:
    """The error that an answer tells of; `retry_after` is the header, of which only the form in seconds is read."""
    members = _members(body)
    code, detail = members.pop("code", None), members.pop("detail", None)
    for name in ("title", "status", "type", "instance"):
        members.pop(name, None)
    if not isinstance(code, str) or not isinstance(detail, str):
        code, detail, members = (
            UNEXPECTED,
            f"The answer was {_phrase(status)}, and not in the broker's words.",
            {},
        )
    return kind(code, detail, status=status, retry_after=_seconds(retry_after), extra=members)


def unexpected(kind: type[_SomeError], what: str, status: int | None = None) -> _SomeError:
    """The error for an answer that no broker gives."""
    return kind(UNEXPECTED, f"{what}; is there a broker at this URL?", status=status)


def reason(error: BaseException) -> str:
    """Why there was no answer, as a person would say it."""
    cause: BaseException = getattr(error, "os_error", error)  # aiohttp's own text speaks of its settings
    if isinstance(cause, ConnectionError) and cause.errno:
        return os.strerror(cause.errno)
    if isinstance(cause, TimeoutError):
        return "it took too long"
    return str(cause) or type(cause).__name__


def json_object(body: bytes | str) -> dict[str, Any]:
    """The JSON object that `body` is. Raises `ValueError`."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _members(body: bytes) -> dict[str, Any]:
    try:
        return json_object(body)
    except ValueError:
        return {}


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _seconds(text: str | None) -> float | None:
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return float(text)
