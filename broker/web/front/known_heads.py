"""Heads that come again and again, by their bytes: parsed, checked and routed once.

A publisher on a kept connection sends the same head with each event of the same length. To parse it, check it and find its
route is a third of the cost of a publish; to find it here costs a hundredth. A subscriber sends one head and no other, but
after a deploy crowds come with equal ones.

Rules: as safe as parsing. llhttp itself has parsed exactly these bytes, alone and from the start of a message, before they are
known. Only heads that no rule refuses are learned, of requests without a body or with a Content-Length, on connections that go
on. What depends on more than the head and the settings (tokens, revocations, limits, a drain) doesn't belong to it.

Heads carry tokens, as those of requests in progress do; they stay in memory until they are forgotten.
"""

from __future__ import annotations

from broker.web.front.head import Head

MAX_HEAD_BYTES = 1024
MAX_PARTS = 40
"""Headers and query parameters: each takes objects of its own."""
MAX_HEADS = 1024
"""All three together bound the memory to about 10 MB (I4)."""
MAX_FIRST_HEADS = 4096
HEAD_END = b"\r\n\r\n"
HEAD_END_BYTES = len(HEAD_END)


class KnownHeads:
    """The heads that the connections of one front have learned.

    Attributes:
        get: the head with these bytes, or None.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._first_heads: set[int] = set()  # their hashes; a collision only has a head learned early
        self.get = self._heads.get  # called for each request: it costs no call of ours

    def __len__(self) -> int:
        return len(self._heads)

    def is_common(self, data: bytes) -> bool:
        """Whether `data`, the first head of a connection, began another one too. Most such heads never come again."""
        mark = hash(data)
        if mark in self._first_heads:
            return True
        if len(self._first_heads) >= MAX_FIRST_HEADS:
            self._first_heads.clear()
        self._first_heads.add(mark)
        return False

    def learn(self, data: bytes, head: Head) -> None:
        """Remember that `data` is `head`, unless another request with the same bytes could be treated in another way."""
        headers = head.headers
        if (
            len(data) > MAX_HEAD_BYTES
            or headers.count() + data.count(b"&") > MAX_PARTS
            or head.refusal is not None
            or not head.keeps_alive
            or "transfer-encoding" in headers
            or "upgrade" in headers
            or "expect" in headers
        ):
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()  # heads still in use are learned again at once
        self._heads[data] = head
