"""Asking for a stream, once: the answer that is one, or why there is none.

Rules: no state and no waiting; what to do about a refusal is the subscription's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp

from broker.client.errors import UNREACHABLE, SubscribeError, problem, reason, unexpected
from broker.client.publishing import read
from broker.client.words import Limits


async def ask(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], limits: Limits
) -> aiohttp.ClientResponse | None:
    """The open answer of `url`, an event stream; None where nothing will come any more (204).

    Raises:
        SubscribeError: there is no stream; `passing` tells whether there may be one later.
    """
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            response = await session.get(
                url,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_read=limits.silence_seconds),
            )
    except aiohttp.TooManyRedirects:
        raise unexpected(SubscribeError, "The answers are redirects without end") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SubscribeError(UNREACHABLE, f"no answer: {reason(error)}") from error
    if response.status == HTTPStatus.OK and response.content_type == "text/event-stream":
        return response
    try:
        if response.status == HTTPStatus.NO_CONTENT:
            return None
        raise await _refusal(response, limits.timeout_seconds)
    finally:
        response.close()


async def _refusal(response: aiohttp.ClientResponse, timeout_seconds: float) -> SubscribeError:
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await read(response)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return SubscribeError(UNREACHABLE, f"the answer was cut: {reason(error)}")
    if 200 <= answer.status < 400:
        return unexpected(SubscribeError, "The answer is no event stream", answer.status)
    return problem(SubscribeError, answer.status, answer.retry_after, answer.body)
