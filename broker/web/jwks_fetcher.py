"""Fetches the keys of a JWK set (RFC 7517 §5) from another server, in the background.

Rules: that server may be down, slow or broken, so only a JWK set (`auth.jwks`) changes anything. A key missing from it no
longer verifies tokens, and the streams that such tokens opened end. A set without any usable key withdraws all keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import aiohttp

from broker.auth.jwks import parse_jwk_set
from broker.auth.tokens import Verifier
from broker.node.evictions import Evictions

REFRESH_SECONDS = 300.0
MIN_REFRESH_SECONDS = 30.0
"""The least time between two fetches, however many tokens name an unknown key."""
RETRY_SECONDS = 5.0
"""The time between two fetches as long as keys are missing."""
FETCH_SECONDS = 5.0
MAX_BYTES = 256 << 10

_logger = logging.getLogger("broker")


class JwksFetcher:
    """Keeps a verifier's fetched keys up to date.

    Args:
        url: where the JWK set is.
        verifier: gets the keys after each fetch.
        evictions: ends the streams of tokens with a key that is gone.
    """

    def __init__(self, url: str, verifier: Verifier, evictions: Evictions) -> None:
        self._url = url
        self._verifier = verifier
        self._evictions = evictions
        self._failure: str | None = "not fetched yet"
        self._has_keys = self._had_keys = False
        self._fetched_at = float("-inf")  # loop time
        self._fetch_task: asyncio.Task[None] | None = None
        self._refresh_task: asyncio.Task[None] | None = None

    @property
    def check(self) -> str:
        """`"ok"` once there were keys; else the problem, without the server's name (contract §6, readyz).

        If all keys are withdrawn later, no other instance has any either, so this one stays ready.
        """
        if self._refresh_task is None or self._refresh_task.done():
            return "no longer fetched; restart this instance"
        return "ok" if self._had_keys else "no keys from jwks_url; the log says why"

    def start(self) -> None:
        """Start fetching. Needs a running loop."""
        self._refresh_task = asyncio.create_task(self._run(), name="broker keys")

    async def stop(self) -> None:
        """Stop fetching."""
        for task in (self._refresh_task, self._fetch_task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _run(self) -> None:
        while True:
            await self._fetch_shared()
            await asyncio.sleep(REFRESH_SECONDS if self._has_keys else RETRY_SECONDS)

    async def refresh(self) -> bool:
        """Fetch the keys, unless they are fresh. Returns whether they were fetched, after at most `FETCH_SECONDS`."""
        age = asyncio.get_running_loop().time() - self._fetched_at
        if self._fetch_task is None and age < MIN_REFRESH_SECONDS:
            return False
        await self._fetch_shared()
        return True

    async def _fetch_shared(self) -> None:
        """Wait for the fetch in progress, or a new one. Cancelling a waiter does not cancel it."""
        if self._fetch_task is None:
            self._fetched_at = asyncio.get_running_loop().time()
            self._fetch_task = asyncio.create_task(self._fetch(), name="broker keys fetch")
        await asyncio.shield(self._fetch_task)

    async def _fetch(self) -> None:
        try:
            keys = parse_jwk_set(await self._read())
        except aiohttp.InvalidURL:  # its text is the URL, which may have a password
            self._fail("the URL is not valid")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            self._fail(str(error) or type(error).__name__)
        else:
            self._has_keys = bool(keys)
            self._had_keys = self._had_keys or self._has_keys
            if keys:
                self._failure = None
            else:
                self._fail("the JWK set contains no key that can verify tokens")
            self._verifier.set_fetched_keys(keys)
            self._evictions.keys_changed(self._verifier.trusts)
        finally:
            self._fetch_task = None

    def _fail(self, failure: str) -> None:
        if failure != self._failure:  # logged once, not at each retry
            effect = "the known keys stay" if self._has_keys else "no token can be verified"
            _logger.warning("jwks_url: %s; %s", failure, effect)
        self._failure = failure

    async def _read(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(
                self._url,
                allow_redirects=False,  # that server must not send us elsewhere
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            ) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"the status is {answer.status}")
            body = b""
            async for data in answer.content.iter_any():
                body += data
                if len(body) > MAX_BYTES:
                    raise ValueError(f"the answer is larger than {MAX_BYTES} bytes")
            return body
