"""Grants: what a caller may do, and for which caller they were issued.

Rules: values only. `tokens` turns a token into a grant; the web layer turns a refusal into an HTTP answer. Patterns follow
contract §1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from broker.errors import Forbidden, Unauthorized
from broker.topics import matches


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do, and until when.

    Attributes:
        publish: patterns of the topics that the caller may publish to and whose producers it may cancel. None allows every
            topic, including those that start with `_`.
        subscribe: the same for topics that the caller may subscribe to or inspect.
        admin: allows listing and deleting topics, disconnecting streams, revoking tokens and reading the metrics.
        subject: the token's `sub` (RFC 7519 §4.1.2); None without a token or without the claim.
        token_id: the token's `jti` (RFC 7519 §4.1.7).
        issued_at: the token's `iat` (RFC 7519 §4.1.6), in seconds since 1970.
        expires_at: the token's `exp` (RFC 7519 §4.1.4), in seconds since 1970; None if it never expires.
        anonymous: the request had no token. A missing right is then `Unauthorized` instead of `Forbidden`.
    """

    publish: Sequence[str] | None = ()
    subscribe: Sequence[str] | None = ()
    admin: bool = False
    subject: str | None = None
    token_id: str | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    anonymous: bool = False

    def check_publish(self, topics: Iterable[str]) -> None:
        """Check that the caller may publish to every one of `topics`.

        Raises:
            Forbidden: the token doesn't allow it; `topics` in the error lists the refused ones.
            Unauthorized: the request had no token.
        """
        self._check(self.publish, topics, "publish to")

    def check_subscribe(self, topics: Iterable[str]) -> None:
        """Check that the caller may subscribe to every one of `topics`. Raises as `check_publish` does."""
        self._check(self.subscribe, topics, "subscribe to")

    def check_admin(self) -> None:
        """Check that the caller is an administrator. Raises as `check_publish` does, without `topics`."""
        if not self.admin:
            self._refuse('This needs an admin token: one whose claim is "broker": {"admin": true}.')

    def _check(self, patterns: Sequence[str] | None, topics: Iterable[str], action: str) -> None:
        if patterns is None:
            return
        refused = [topic for topic in topics if not any(matches(pattern, topic) for pattern in patterns)]
        if refused:
            self._refuse(f"This token may not {action} {', '.join(refused)}.", topics=refused)

    def _refuse(self, detail: str, **extra: object) -> NoReturn:
        if self.anonymous:
            raise Unauthorized("This request needs a token; send it as Authorization: Bearer.")
        raise Forbidden(detail, **extra)


FULL_ACCESS = Grant(None, None, admin=True)
"""What every caller may do while the broker is open (`Settings.is_open`)."""

ALL_TOPICS = ("**",)
"""Patterns for every topic except the broker's own, which start with `_`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        address: the client's IP address; "" if no setting needs it.
    """

    grant: Grant
    address: str = ""


UNRESTRICTED_CALLER = Caller(FULL_ACCESS)
