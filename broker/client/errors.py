"""What the client raises, and how it reads the broker's problem responses (RFC 9457)."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

UNREACHABLE = "unreachable"
UNEXPECTED = "unexpected"

MAX_RESPONSE_BYTES = 64 << 10
"""More than any response of the broker except a stream."""

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons, by its versions, for a server that answers the handshake in plain HTTP."""

_TEMPORARY = frozenset({408, 425, 429})

_Error = TypeVar("_Error", bound="ClientError")


class ClientError(Exception):
    """Base class of the client's errors. A wrong argument is a `ValueError` instead.

    Attributes:
        code: the problem's code; `unreachable` if there was no response; `unexpected` if the response is not a broker's.
        detail: the problem and its remedy, in the broker's words if it sent any.
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
        return self.code == UNREACHABLE or is_temporary(self.status or 0)


class PublishError(ClientError):
    """An event was not published. With the code `unreachable` it may have been published: there was no response.

    Attributes:
        was_sent: whether the broker may have received it; False if the blocking client could not connect.
    """

    was_sent = True


class Cancelled(PublishError):
    """Someone asked this producer to stop. The events sent before are published."""


class SubscribeError(ClientError):
    """The broker refuses a subscription, or the stream cannot be read."""


def is_temporary(status: int) -> bool:
    """Whether a later attempt may get another status: after an overload, a restart, a failure in a proxy."""
    return status >= 500 or status in _TEMPORARY


def problem(error_type: type[_Error], status: int, retry_after: str | None, body: bytes) -> _Error:
    """The error that a response describes; its code is `unexpected` if `body` is not a problem in JSON.

    Args:
        retry_after: the header `Retry-After`; only its form in seconds is understood.
    """
    members = _members(body)
    code, detail = members.pop("code", None), members.pop("detail", None)
    for name in ("title", "status", "type", "instance"):
        members.pop(name, None)
    if not isinstance(code, str) or not isinstance(detail, str):
        code, members = UNEXPECTED, {}
        detail = f"The response was {_phrase(status)}, without a reason from the broker"
        detail += "; is there a broker at this URL?" if status == 501 or not is_temporary(status) else "."
    return error_type(code, detail, status=status, retry_after=_seconds(retry_after), extra=members)


def unexpected(error_type: type[_Error], what: str, status: int | None = None) -> _Error:
    """The error for a response that no broker sends. `what` is a sentence without its full stop."""
    return error_type(UNEXPECTED, f"{what}; is there a broker at this URL?", status=status)


def reason(error: BaseException) -> str:
    """Why there was no response, in plain words. Of aiohttp's errors the cause counts: their own text is about its settings."""
    cause: BaseException = getattr(error, "os_error", getattr(error, "certificate_error", error))
    if isinstance(cause, ConnectionError) and cause.errno:
        return os.strerror(cause.errno)
    if isinstance(cause, TimeoutError):
        return "it took too long"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
        return "it does not speak TLS there; use http://"
    if isinstance(cause, socket.gaierror) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def json_object(body: bytes | str) -> dict[str, Any]:
    """Parse a JSON object. Raises `ValueError`."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
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
