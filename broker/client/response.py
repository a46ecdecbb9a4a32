"""The values of HTTP: the headers of requests, and a complete response.

Rules: values only; no HTTP library.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from broker.client.errors import Cancelled, PublishError, json_object, problem, unexpected

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Accept": "application/json"}
"""Headers of requests."""


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response; `retry_after` is the header."""

    status: int
    retry_after: str | None
    body: bytes

    def expect(self, status: HTTPStatus) -> Response:
        """This response, if it has the status `status`.

        Raises:
            PublishError: it has another one.
            Cancelled: someone asked the producer of this stream to stop.
        """
        if self.status == status:
            return self
        refusal = problem(PublishError, self.status, self.retry_after, self.body)
        if refusal.code == "cancelled":
            raise problem(Cancelled, self.status, self.retry_after, self.body)
        raise refusal

    def member(self, name: str) -> Any:
        """A member of the JSON object. Raises `PublishError` if there is none, which no broker sends."""
        try:
            return json_object(self.body)[name]
        except (ValueError, KeyError):
            raise unexpected(PublishError, f"The response has no {name!r}", self.status) from None
