"""One POST request: the token, the time limit and the response.

Rules: no retries. The token function is called before each request, because only it knows how long a token is valid. Its
exceptions reach the caller of the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from broker.client.errors import MAX_RESPONSE_BYTES, UNREACHABLE, Cancelled, PublishError, problem, reason

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
NDJSON = {"Content-Type": "application/x-ndjson"}

Token = str | Callable[[], Awaitable[str]]
"""A bearer token, or an async function that returns a valid one."""


async def authorization(token: Token | None) -> dict[str, str]:
    """The header that carries `token` (RFC 6750 §2.1); empty without a token."""
    if token is None:
        return {}
    text = token if isinstance(token, str) else await token()
    return {"Authorization": f"Bearer {text}"}


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response; `retry_after` is the header."""

    status: int
    retry_after: str | None
    body: bytes


async def read_response(response: aiohttp.ClientResponse) -> Response:
    """Read a response to its end, or up to about `MAX_RESPONSE_BYTES`."""
    body = b""
    while len(body) < MAX_RESPONSE_BYTES and (data := await response.content.readany()):
        body += data
    return Response(response.status, response.headers.get("Retry-After"), body)


class Requests:
    """Sends POST requests on an aiohttp session.

    Args:
        timeout_seconds: limit for a request. For a streamed body: for connecting, and for the response after it.
    """

    def __init__(self, session: aiohttp.ClientSession, token: Token | None, timeout_seconds: float) -> None:
        self._session = session
        self._token = token
        self.timeout_seconds = timeout_seconds

    async def post(
        self,
        url: str,
        body: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        expected: HTTPStatus,
        limit: asyncio.Timeout | None = None,
    ) -> Response:
        """Send a request and return its response, which has the status `expected`.

        Args:
            limit: the time limit, not yet entered; by default `timeout_seconds` from now.

        Raises:
            PublishError: the code is `unreachable` if there was no response.
            Cancelled: someone asked the producer of this stream to stop.
        """
        headers = {**headers, **await authorization(self._token)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_seconds)
        try:
            async with (
                limit or asyncio.timeout(self.timeout_seconds),
                self._session.post(
                    url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer,
                asyncio.timeout(self.timeout_seconds),
            ):
                response = await read_response(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PublishError(UNREACHABLE, f"No answer from {url}: {reason(error)}.") from error
        if response.status == expected:
            return response
        refusal = problem(PublishError, response.status, response.retry_after, response.body)
        if refusal.code == "cancelled":
            raise problem(Cancelled, response.status, response.retry_after, response.body)
        raise refusal
