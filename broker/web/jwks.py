"""The keys that somebody else publishes (JWK set, RFC 7517 §5), fetched without anybody waiting.

Rules: they come from another server, which may be down, slow, or taken over: what is no set of good keys changes nothing.
A key that is gone from a good set is good no longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

import aiohttp

from broker.auth.jwks import parse_jwk_set
from broker.auth.keys import VerificationKey

REFRESH_SECONDS = 300.0
LEAST_SECONDS = 30.0
"""Between two fetches, however many tokens name a key that isn't known."""
RETRY_SECONDS = 5.0
"""Until the next one while there are no keys at all."""
FETCH_SECONDS = 5.0
MAX_BYTES = 256 << 10

_logger = logging.getLogger("broker")


class KeySet:
    """See the module; `start` and `stop` go with the application.

    Args:
        url: where the set is.
        take: called with the keys, each time they were fetched.
        monotonic: the loop's time in seconds.
    """

    def __init__(
        self, url: str, take: Callable[[Sequence[VerificationKey]], None], monotonic: Callable[[], float]
    ) -> None:
        self._url = url
        self._take = take
        self._monotonic = monotonic
        self._failure: str | None = "not fetched yet"
        self._has_keys = False
        self._fetched_at = -LEAST_SECONDS
        self._fetching: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def check(self) -> str:
        """`"ok"` while there are keys, however old; else what is wrong (contract §6, readyz)."""
        if self._keeper is None or self._keeper.done():
            return "no longer fetched; restart this instance"
        return "ok" if self._has_keys else f"no keys from jwks_url: {self._failure}"

    async def start(self) -> None:
        """Begin to fetch."""
        self._keeper = asyncio.create_task(self._keep(), name="broker keys")

    async def stop(self) -> None:
        """Fetch no more."""
        for task in (self._keeper, self._fetching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _keep(self) -> None:
        while True:
            await self._fetch_once()
            await asyncio.sleep(REFRESH_SECONDS if self._has_keys else RETRY_SECONDS)

    async def refresh(self) -> bool:
        """Fetch anew, unless that was done a moment ago; whether it was done. Waits for it, `FETCH_SECONDS` at most."""
        if self._fetching is None and self._monotonic() - self._fetched_at < LEAST_SECONDS:
            return False
        await self._fetch_once()
        return True

    async def _fetch_once(self) -> None:
        """One fetch for all who want one at the same time; who stops waiting doesn't stop it."""
        if self._fetching is None:
            self._fetched_at = self._monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="broker keys fetch")
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            keys = parse_jwk_set(await self._read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            self._fail(str(error) or type(error).__name__)
        else:
            self._failure, self._has_keys = None, True
            self._take(keys)
        finally:
            self._fetching = None

    def _fail(self, why: str) -> None:
        if why != self._failure:  # not each time
            kept = "those that are known stay" if self._has_keys else "no token can be verified"
            _logger.warning("jwks_url: %s; %s", why, kept)
        self._failure = why

    async def _read(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(
                self._url,
                allow_redirects=False,  # to wherever whoever answers there likes
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            ) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"the answer is {answer.status}")
            body = b""
            async for data in answer.content.iter_any():
                body += data
                if len(body) > MAX_BYTES:
                    raise ValueError(f"the answer is over {MAX_BYTES} bytes")
            return body
