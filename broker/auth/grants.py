"""Grants: the rights of a caller.

Rules: values only. `tokens` makes grants from tokens; the web layer makes responses from refusals. Patterns follow contract §1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from broker.auth.keys import Signature
from broker.errors import DenialReason, Forbidden, Unauthorized
from broker.topics import compiled


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do, and until when.

    Attributes:
        publish: patterns of topics for publish and cancel. None allows every topic, including those that start with `_`.
        subscribe: the same for subscribing and inspecting.
        admin: may list and delete topics, disconnect streams, revoke tokens, and read the metrics and the broker's own topics.
        subject: the token's `sub` (RFC 7519 §4.1.2); None without a token or without the claim.
        token_id: the token's `jti` (RFC 7519 §4.1.7).
        issued_at: the token's `iat` (RFC 7519 §4.1.6), in seconds since 1970.
        expires_at: the token's `exp` (RFC 7519 §4.1.4), in seconds since 1970; None if it never expires.
        anonymous: no token; a missing right is then `Unauthorized`, not `Forbidden`.
        signature: what verified the token; None without a token.
    """

    publish: Sequence[str] | None = ()
    subscribe: Sequence[str] | None = ()
    admin: bool = False
    subject: str | None = None
    token_id: str | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    anonymous: bool = False
    signature: Signature | None = field(default=None, compare=False, repr=False)

    def check_publish(self, topics: Iterable[str]) -> None:
        """Check the right to publish to all `topics`.

        Raises:
            Forbidden: the token doesn't allow it; the error lists the refused `topics`.
            Unauthorized: the request had no token.
        """
        if self.publish is not None:
            self._check(self.publish, topics, "publish to")

    def check_subscribe(self, topics: Iterable[str]) -> None:
        """Check the right to subscribe to all `topics`; `admin` includes the broker's own, which begin with `_`. Raises like `check_publish`."""
        if self.subscribe is not None:
            others = [topic for topic in topics if not topic.startswith("_")] if self.admin else topics
            self._check(self.subscribe, others, "subscribe to")

    def check_admin(self) -> None:
        """Check the admin right. Raises like `check_publish`."""
        if not self.admin:
            self._refuse(
                'This needs an admin token, with the claim "broker": {"admin": true}.', DenialReason.ADMIN
            )

    def _check(self, patterns: Sequence[str], topics: Iterable[str], action: str) -> None:
        match = compiled(tuple(patterns)).match
        refused = [topic for topic in topics if not match(topic)]
        if refused:
            detail = f"This token may not {action} {', '.join(refused)}."
            self._refuse(detail, DenialReason.TOPICS, topics=refused)

    def _refuse(self, detail: str, reason: DenialReason, **extra: object) -> NoReturn:
        if self.anonymous:
            raise Unauthorized(
                "This request needs a token; send it as Authorization: Bearer.", reason=DenialReason.NO_TOKEN
            )
        raise Forbidden(detail, reason=reason, **extra)


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
