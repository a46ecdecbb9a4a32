"""One request: the token, the time limit and the response.

Rules: no retries. The token function is called before each request, because only it knows how long a token is valid. Its
exceptions reach the caller of the client.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus

import aiohttp

from broker.client.errors import MAX_RESPONSE_BYTES, UNREACHABLE, PublishError, reason
from broker.client.response import Response
from broker.client.sockets import limit_unacknowledged

Token = str | Callable[[], Awaitable[str]]
"""A bearer token, or an async function that returns a valid one."""


async def authorization(token: Token | None) -> dict[str, str]:
    """The header that carries `token` (RFC 6750 §2.1); empty without a token."""
    if token is None:
        return {}
    text = token if isinstance(token, str) else await token()
    return {"Authorization": f"Bearer {text}"}


async def read_response(response: aiohttp.ClientResponse, most: int = MAX_RESPONSE_BYTES) -> Response:
    """Read a response to its end, or up to about `most` bytes."""
    body = bytearray()
    while len(body) < most and (data := await response.content.readany()):
        body += data
    return Response(response.status, response.headers.get("Retry-After"), bytes(body))


class Requests:
    """Sends requests on an aiohttp session.

    Args:
        timeout_seconds: limit for a request. For a streamed body: for connecting, and for the response after it.
    """

    def __init__(self, session: aiohttp.ClientSession, token: Token | None, timeout_seconds: float) -> None:
        self._session = session
        self._token = token
        self.timeout_seconds = timeout_seconds

    async def send(
        self,
        url: str,
        body: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        expected: HTTPStatus,
        limit: asyncio.Timeout | None = None,
        *,
        method: str = "POST",
        most: int = MAX_RESPONSE_BYTES,
    ) -> Response:
        """Send a request and return its response, which has the status `expected`.

        Args:
            limit: the time limit, not yet entered; by default `timeout_seconds` from now.
            most: the largest response in bytes.

        Raises:
            PublishError: the code is `unreachable` if there was no response.
            Cancelled: someone asked the producer of this stream to stop.
        """
        headers = {**headers, **await authorization(self._token)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_seconds)
        try:
            async with (
                limit or asyncio.timeout(self.timeout_seconds),
                self._session.request(
                    method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer,
                asyncio.timeout(self.timeout_seconds),
            ):
                response = await read_response(answer, most)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PublishError(UNREACHABLE, f"No answer from {url}: {reason(error)}.") from error
        return response.expect(expected)


def make_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that fails soon if the peer acknowledges nothing."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    limit_unacknowledged(made)
    return made
