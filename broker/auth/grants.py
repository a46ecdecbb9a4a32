"""Who may do what: the rights that a caller has been granted, and who the caller is.

Rules: values only. What a token is, and how one is verified, is the business of `tokens`; what a refusal looks like that of
the web layer. Patterns are those of contract §1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from broker.errors import Forbidden, Unauthorized
from broker.topics import matches


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do, and for how long.

    Attributes:
        publish: patterns of topics that may be published to, and whose producers may be asked to stop; None for every topic,
            the broker's own included.
        subscribe: the same for topics that may be read and looked at.
        admin: whether topics may be listed and deleted, streams ended, tokens revoked, and the metrics read.
        subject: whom the token speaks for (`sub`, RFC 7519 §4.1.2); None without a token, or where it doesn't say.
        token_id: the token's own id (`jti`, RFC 7519 §4.1.7).
        issued_at: when the token was made (`iat`, RFC 7519 §4.1.6), seconds since 1970.
        until: when the token expires (`exp`, RFC 7519 §4.1.4), seconds since 1970; None for never.
        anonymous: no token came; who lacks a right then is asked for one.
    """

    publish: Sequence[str] | None = ()
    subscribe: Sequence[str] | None = ()
    admin: bool = False
    subject: str | None = None
    token_id: str | None = None
    issued_at: float | None = None
    until: float | None = None
    anonymous: bool = False

    def check_publish(self, topics: Iterable[str]) -> None:
        """Raises `Forbidden`, naming them, where some of `topics` may not be published to; `Unauthorized` without a token."""
        self._check(self.publish, topics, "publish to")

    def check_subscribe(self, topics: Iterable[str]) -> None:
        """The same where some of `topics` may not be read."""
        self._check(self.subscribe, topics, "subscribe to")

    def check_admin(self) -> None:
        """The same where this isn't an operator's grant."""
        if not self.admin:
            self._refuse('This is for operators; their token\'s claim says "broker": {"admin": true}.')

    def _check(self, patterns: Sequence[str] | None, topics: Iterable[str], what: str) -> None:
        if patterns is None:
            return
        refused = [topic for topic in topics if not any(matches(pattern, topic) for pattern in patterns)]
        if refused:
            self._refuse(f"This token may not {what} {', '.join(refused)}.", topics=refused)

    def _refuse(self, detail: str, **extra: object) -> NoReturn:
        if self.anonymous:
            raise Unauthorized("A token is needed for this; send it as Authorization: Bearer.")
        raise Forbidden(detail, **extra)


EVERYTHING = Grant(None, None, admin=True)
"""What everybody may do while the broker is open."""

ALL_TOPICS = ("**",)
"""But for those of the broker's own, which start with `_`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection.

    Attributes:
        address: of the client, as far as it is known; "" where nobody asked.
    """

    grant: Grant
    address: str = ""


ANYBODY = Caller(EVERYTHING)
