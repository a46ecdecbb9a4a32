"""The request for an event stream.

Rules: no state and no retries; the subscription decides what to do after a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp

from broker.client.errors import UNREACHABLE, SubscribeError, problem, reason, unexpected
from broker.client.requests import read_response
from broker.client.types import ClientOptions


async def open_stream(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], options: ClientOptions
) -> aiohttp.ClientResponse | None:
    """Request `url` and return the open response, an event stream; None if no events will ever come (204).

    Raises:
        SubscribeError: the response is not a stream. Its `passing` says whether a later attempt may get one.
    """
    try:
        async with asyncio.timeout(options.timeout_seconds):
            response = await session.get(
                url,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_read=options.silence_seconds),
            )
    except aiohttp.TooManyRedirects:
        raise unexpected(SubscribeError, "Too many redirects") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SubscribeError(UNREACHABLE, f"no answer: {reason(error)}") from error
    if response.status == HTTPStatus.OK and response.content_type == "text/event-stream":
        return response
    try:
        if response.status == HTTPStatus.NO_CONTENT:
            return None
        raise await _refusal(response, options.timeout_seconds)
    finally:
        response.close()


async def _refusal(response: aiohttp.ClientResponse, timeout_seconds: float) -> SubscribeError:
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await read_response(response)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return SubscribeError(UNREACHABLE, f"the answer was cut off: {reason(error)}")
    if 200 <= answer.status < 400:
        return unexpected(SubscribeError, "The response is not an event stream", answer.status)
    return problem(SubscribeError, answer.status, answer.retry_after, answer.body)
