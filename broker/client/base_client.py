"""What the parts of `Client` share: the broker's URL, the session and the limits."""

from __future__ import annotations

import aiohttp

from broker.client.address import base_url
from broker.client.requests import Requests, Token, make_socket
from broker.client.types import ClientOptions


class BaseClient:
    """The broker's URL, and the aiohttp session for requests to it.

    Raises:
        ValueError: `url` is not the URL of a broker.
    """

    def __init__(
        self, url: str, *, token: Token | None, session: aiohttp.ClientSession | None, options: ClientOptions
    ) -> None:
        self.url = base_url(url)
        self._token = token
        self._callers_session = session
        self._own_session: aiohttp.ClientSession | None = None
        self._options = options

    def _session(self) -> aiohttp.ClientSession:
        if self._callers_session is not None:
            return self._callers_session
        if self._own_session is None:
            connector = aiohttp.TCPConnector(limit=0, socket_factory=make_socket)
            self._own_session = aiohttp.ClientSession(connector=connector)
        return self._own_session

    def _make_requests(self) -> Requests:
        return Requests(self._session(), self._token, self._options.timeout_seconds)

    async def _close_session(self) -> None:
        if self._own_session is not None:
            await self._own_session.close()
