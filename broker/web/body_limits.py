"""Limits how many request bodies are read, or wait to be published, at once, and their bytes: in all, and for each client.

Rules: numbers and names. A body is counted before it is read, and until it is published if that has to wait (`held_publish`). Half of
the descriptors that streams leave stay free of bodies: whatever clients send, others can connect.

A client is an address, with its IPv6 site (`node.limits`), and a token's subject; each counts for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType

from broker.auth.grants import Caller
from broker.errors import BrokerError, Overloaded, RateLimited
from broker.metrics import Metrics
from broker.node.limits import NETWORKS_PER_SITE, site_of

RETRY_SECONDS = 2
MAX_HELD_BYTES = 64 << 20
"""The limit for the bytes of all bodies that are not complete or not published, or of which an event isn't (I4)."""


class BodyLimits:
    """Counts the bodies of one application's requests.

    Args:
        room: how many connections streams leave.
        per_address, per_subject: the most bodies at once; 0 for no limit.
        max_bytes: for all bodies together; a client gets at most half of it.

    Attributes:
        count: bodies that are being read, or wait to be published.
        held_bytes: their bytes.
    """

    def __init__(
        self,
        room: Callable[[], int],
        metrics: Metrics,
        *,
        per_address: int = 0,
        per_subject: int = 0,
        max_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self.count = 0
        self.held_bytes = 0
        self._room = room
        self._refused = metrics.refused_bodies
        self._per_address = per_address
        self._per_subject = per_subject
        self._max_bytes = max_bytes
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def enter(self, caller: Caller) -> HeldBody:
        """Count a body of `caller`, until the context of the result ends.

        Raises:
            RateLimited: the client sends as many bodies as it may; `limit` names the setting.
            Overloaded: there are too many bodies of all clients.
        """
        clients = self._clients(caller)
        for name, limit, setting in clients:
            if limit and self._counts[name] >= limit:
                what = name.partition(" ")[0]
                detail = f"This {what} sends {limit} bodies at once, or has that many wait to be published, the maximum; try again later."
                raise self._refusal(setting, RateLimited(detail, retry_after=RETRY_SECONDS, limit=setting))
        if self.count >= max(1, self._room() // 2):
            detail = "Too many bodies arrive at once or wait to be published; send it again later."
            raise self._refusal("bodies", Overloaded(detail, retry_after=RETRY_SECONDS))
        names = [name for name, _, _ in clients]
        self._change(names, 1, 0)
        return HeldBody(self, names)

    def _clients(self, caller: Caller) -> Sequence[tuple[str, int, str]]:
        """The names to count the caller's bodies under, each with its limit and the setting."""
        clients = []
        if caller.address:
            clients.append((f"address {caller.address}", self._per_address, "max_bodies_per_address"))
            site = site_of(caller.address)
            if site:
                limit = self._per_address * NETWORKS_PER_SITE
                clients.append((f"network {site}", limit, "max_bodies_per_address"))
        if caller.grant.subject is not None:
            clients.append((f"subject {caller.grant.subject}", self._per_subject, "max_bodies_per_subject"))
        return clients

    def _refusal(self, limit: str, error: BrokerError) -> BrokerError:
        self._refused.add(limit)
        return error

    def _change(self, names: Sequence[str], count: int, size: int) -> None:
        self.count += count
        self.held_bytes += size
        for name in names:
            self._counts[name] += count
            self._bytes[name] += size
            if not self._counts[name]:
                del self._counts[name], self._bytes[name]

    # For `HeldBody`

    def hold(self, names: Sequence[str], size: int) -> None:
        """Count `size` more bytes for the clients with these names; fewer if it is negative. If it raises, they count all the same."""
        self._change(names, 0, size)
        if size <= 0:
            return
        if any(self._bytes[name] > self._max_bytes // 2 for name in names):
            detail = (
                "You send too many bodies at once, or have too many wait to be published; try again later."
            )
            raise self._refusal("client-bytes", RateLimited(detail, retry_after=RETRY_SECONDS))
        if self.held_bytes > self._max_bytes:
            detail = "Too many bodies arrive at once or wait to be published; send it again later."
            raise self._refusal("bytes", Overloaded(detail, retry_after=RETRY_SECONDS))

    def leave(self, names: Sequence[str], size: int) -> None:
        """A body with `size` bytes is read no further."""
        self._change(names, -1, -size)


class HeldBody:
    """A body that is counted while its context lasts.

    Args:
        names: of its clients.
    """

    __slots__ = ("_limits", "_names", "_size")

    def __init__(self, limits: BodyLimits, names: Sequence[str]) -> None:
        self._limits = limits
        self._names = names
        self._size = 0

    def __enter__(self) -> HeldBody:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._limits.leave(self._names, self._size)

    def hold(self, size: int) -> None:
        """Now `size` bytes of it are held. Raises `RateLimited` or `Overloaded` if that is too much."""
        change = size - self._size
        if change:
            self._size = size
            self._limits.hold(self._names, change)

    def hold_more(self, size: int) -> bool:
        """Hold `size` bytes more until the next `hold`. Returns False if that would be too much: then nothing has changed."""
        former = self._size
        try:
            self.hold(former + size)
        except BrokerError:
            self.hold(former)
            return False
        return True
