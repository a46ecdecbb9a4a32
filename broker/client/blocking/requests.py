"""One request on a kept connection.

Rules: no retries, with one exception: if a connection that was kept turns out to be closed, the request goes once more, on a new one.
This needs a request that may arrive twice.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from broker.client.blocking.connections import ConnectionPool, Origin, PooledConnection
from broker.client.blocking.streamed_body import StreamedBody
from broker.client.errors import (
    MAX_RESPONSE_BYTES,
    UNREACHABLE,
    PublishError,
    SubscribeError,
    problem,
    reason,
    unexpected,
)
from broker.client.response import NDJSON, Response

Token = str | Callable[[], str]
"""A bearer token, or a function that returns a valid one."""


class BlockingRequests:
    """Sends requests.

    Args:
        token: a function is called before each request; its exceptions reach the caller of the client.
        timeout_seconds: limit for connecting, for sending, and for each read.
    """

    def __init__(self, pool: ConnectionPool, token: Token | None, timeout_seconds: float) -> None:
        self._pool = pool
        self._token = token
        self.timeout_seconds = timeout_seconds

    def send(
        self,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        expected: HTTPStatus,
        *,
        method: str = "POST",
        most: int = MAX_RESPONSE_BYTES,
        repeatable: bool = True,
        on_repeat: Callable[[], None] | None = None,
    ) -> Response:
        """Send a request and return its response, which has the status `expected`.

        Args:
            most: the largest response in bytes.
            repeatable: the request may arrive twice.
            on_repeat: called before it is sent once more.

        Raises:
            PublishError: its `was_sent` is False if there was no connection.
            PublishError: the code is `unreachable` if there was no response.
        """
        headers = {**headers, **self._authorization()}
        connection = self._connect(url, self._pool.take)
        try:
            try:
                response = self._exchange(connection, method, url, body, headers, most)
            except ConnectionError:
                if not (connection.is_reused and repeatable):
                    raise
                if on_repeat is not None:
                    on_repeat()
                connection = self._connect(url, self._pool.connect)
                response = self._exchange(connection, method, url, body, headers, most)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(url, error) from error
        return response.expect(expected)

    def open_stream(
        self, url: str, headers: Mapping[str, str]
    ) -> tuple[PooledConnection, http.client.HTTPResponse] | None:
        """Request an event stream, on a connection of its own; None if no events will ever come (204).

        Raises:
            SubscribeError: the response is not a stream. Its `passing` says whether a later attempt may get one.
        """
        headers = {**headers, **self._authorization()}
        try:
            connection = self._connect(url, self._pool.connect)
        except PublishError as error:
            cause = error.__cause__ or error
            raise SubscribeError(UNREACHABLE, f"no answer: {reason(cause)}") from cause
        try:
            connection.http.send_request("GET", _target(url), None, headers)
            response = connection.read_head()
            if response.status == HTTPStatus.OK:
                if response.headers.get_content_type() == "text/event-stream":
                    return connection, response
                raise unexpected(SubscribeError, "The response is not an event stream", response.status)
            if response.status != HTTPStatus.NO_CONTENT:
                body, after = response.read(MAX_RESPONSE_BYTES), response.getheader("Retry-After")
                raise problem(SubscribeError, response.status, after, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise SubscribeError(UNREACHABLE, f"no answer: {reason(error)}") from error
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def open_body(self, url: str, headers: Mapping[str, str]) -> StreamedBody:
        """Start a POST with a streamed body in NDJSON, on a connection of its own. Raises `PublishError`."""
        headers = {**NDJSON, **headers, **self._authorization()}
        connection = self._connect(url, self._pool.connect)
        try:
            return StreamedBody(connection, _target(url), headers)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(url, error) from error

    def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        token = self._token if isinstance(self._token, str) else self._token()
        return {"Authorization": f"Bearer {token}"}

    def _connect(self, url: str, connect: Callable[[Origin, float], PooledConnection]) -> PooledConnection:
        try:
            return connect(Origin.of(url), self.timeout_seconds)
        except OSError as error:
            raise unreachable(url, error, was_sent=False) from error

    def _exchange(
        self,
        connection: PooledConnection,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        most: int,
    ) -> Response:
        try:
            with contextlib.suppress(ConnectionError):  # the broker may have answered before it closed
                connection.http.send_request(method, _target(url), body, headers)
            answer = connection.read_head()
            data = answer.read(most)
            if answer.length and len(data) < most:
                raise http.client.IncompleteRead(data, answer.length)
            response = Response(answer.status, answer.getheader("Retry-After"), data)
        except BaseException:
            connection.close()
            raise
        if answer.isclosed() and not answer.will_close and answer.status >= HTTPStatus.OK:
            self._pool.give_back(connection)
        else:
            connection.close()
        return response


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def unreachable(url: str, error: BaseException, *, was_sent: bool = True) -> PublishError:
    """The error for a request without a response."""
    parts = urlsplit(url)
    made = PublishError(UNREACHABLE, f"No answer from {parts.scheme}://{parts.netloc}: {reason(error)}.")
    made.was_sent = was_sent
    return made
